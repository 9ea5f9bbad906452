{{ trailing_outcomes(["destination"]) }}
