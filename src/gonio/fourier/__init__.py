"""From voxels to Fourier samples: grids, transforms, spectra, volumes that can be sampled anywhere, FSC."""
