{{ trailing_outcomes(["carrier", "scheduled_departure_hour"]) }}
