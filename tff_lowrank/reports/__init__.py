"""Tables, plots and web pages of runs, from their folders. Import the modules by name."""
