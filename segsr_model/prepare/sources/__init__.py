"""What images there are: folders and archives, the published data sets, the splits."""
