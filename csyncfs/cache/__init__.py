"""What is kept of the cloud on local disks: content files and the space they may take."""
