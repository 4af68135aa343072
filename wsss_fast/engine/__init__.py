"""What every run needs: devices and seeds, files and run folders, processes, the training loop."""
