{{ trailing_outcomes(["origin", "scheduled_departure_hour"]) }}
