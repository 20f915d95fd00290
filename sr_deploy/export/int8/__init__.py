"""INT8 after training: convolutions chosen, calibrated, corrected and left out until the loss fits a budget."""
