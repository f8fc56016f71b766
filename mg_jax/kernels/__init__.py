"""The few operations worth tuning by hand: attention, dense layers and convolutions."""
