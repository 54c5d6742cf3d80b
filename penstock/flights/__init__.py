"""The demo's world: real flights of 2013 as scoring requests and outcomes, and the models trained on them."""
