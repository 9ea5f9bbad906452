"""How sure a prediction is: the median and interval of each row, the band of a night."""
