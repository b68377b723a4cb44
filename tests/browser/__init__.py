"""What is held to be true of the lab in a browser: JupyterLab and Voila, driven as by hand."""
