"""From a recipe to finished stages: the plan, what it will cost, and running it on this machine."""
