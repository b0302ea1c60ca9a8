"""Tables, plots and pages of runs, from their folders. Import its modules by name."""
