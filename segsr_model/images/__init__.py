"""Reading images: any size, window by window, with the pixels that hold no data."""
