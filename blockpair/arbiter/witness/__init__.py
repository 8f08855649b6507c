"""The witness: a process on any third machine that keeps the registers of any number of clusters."""
