{{ trailing_outcomes(["carrier", "origin"]) }}
