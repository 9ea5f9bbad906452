{{ trailing_outcomes(["carrier"]) }}
