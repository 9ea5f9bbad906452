{{ trailing_outcomes(["tail_number"]) }}
