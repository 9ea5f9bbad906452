"""The flights that left New York in 2013: their upstream system, its faults, the demo and the backtests."""
