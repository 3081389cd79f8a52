"""Objects of a scene, found without labels: by common rigid motion, and by place and colour where nothing moved."""
