{{ trailing_outcomes(["origin", "destination"]) }}
