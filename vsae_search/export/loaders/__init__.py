"""Classes that are written beside an autoencoder that another library has no class for; never imported here."""
