"""Planning: search over action sequences with a world model, towards a goal scene, a goal image or success."""
