{{ trailing_outcomes(["origin"]) }}
