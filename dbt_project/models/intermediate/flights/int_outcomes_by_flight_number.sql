{{ trailing_outcomes(["carrier", "flight_number", "origin"]) }}
