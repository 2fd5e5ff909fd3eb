"""Heights from the signals of a segmented backscatter detector, with their uncertainty."""
