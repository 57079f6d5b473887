"""Labels, figures, sliders and exercise checks of the notebooks."""
