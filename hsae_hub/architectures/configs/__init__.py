"""What may be set of each architecture: one file each, named as it is, with its one `SAEConfig`. No torch here."""
