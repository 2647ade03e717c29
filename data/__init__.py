"""The data sets' facts and files; the pickles lie here too."""
