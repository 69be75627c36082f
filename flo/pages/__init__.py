"""Templates, forms, live updates and plots that the console and the desk share."""
