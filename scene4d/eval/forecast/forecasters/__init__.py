"""What is compared in a forecast table: world models, baselines without learning, exact motion, a 2D baseline."""
