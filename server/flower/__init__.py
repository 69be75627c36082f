"""The only room on the coordinator's side that imports Flower."""
