{{ trailing_outcomes([]) }}
