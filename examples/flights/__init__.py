"""An example project: the flights that left New York in 2013, replayed as an upstream system."""
