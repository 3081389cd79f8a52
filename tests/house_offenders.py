"""What breaks a rule of `test_house.py` all the same."""

# Signatures that a library calls by position.
FIXED_BY_A_LIBRARY = {
    "scene4d/apps/agent/server/http_server.py:send_error": "http.server",
    "scene4d/native/nearest.py:_backward": "torch.library",
    "scene4d/native/nearest.py:_setup_context": "torch.library",
    "scene4d/native/ops.py:_setup_context": "torch.library",
}

# Modules of networks, whose names begin the names of the tensors in a weights file.
KEYS_IN_WEIGHTS = {
    "scene4d/models/gaussian_flow/model.py:intent",
    "scene4d/policy/head.py:aim",
    "scene4d/policy/head.py:aimed",
}

# Known, to be mended: these sets only shrink.
KNOWN: dict[str, set[str]] = {
    "positional arguments": {
        "scene4d/apps/compose/models.py:make_models",
        "scene4d/apps/compose/nerfstudio_scene.py:_points",
        "scene4d/apps/compose/recorded_starts.py:state_at",
        "scene4d/apps/compose/scene_start.py:chosen_actions",
        "scene4d/apps/training/cache.py:_memory",
        "scene4d/apps/training/cache.py:displacement_of",
        "scene4d/apps/training/cache.py:snapshot_one",
        "scene4d/apps/training/import_recordings.py:take_in_one",
        "scene4d/apps/training/pixel_stage.py:_trained",
        "scene4d/apps/training/prepare.py:_prepared",
        "scene4d/apps/training/prepare.py:batches_of_episode",
        "scene4d/apps/training/prepare.py:cells_of_episode",
        "scene4d/apps/training/prepare.py:samples_of_demonstration",
        "scene4d/apps/training/record_episodes.py:episode_path",
        "scene4d/apps/training/record_episodes.py:record_one",
        "scene4d/models/gaussian_flow/loss.py:_choose_rows",
        "scene4d/models/gaussian_flow/loss.py:_point_loss",
        "scene4d/models/gaussian_flow/model.py:_forecast",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:_anchor_features",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:_told",
        "scene4d/models/gaussian_flow/networks/dit.py:_simple_motions",
        "scene4d/models/gaussian_flow/networks/dit.py:_step_features",
        "scene4d/models/gaussian_flow/networks/proprio.py:_told",
        "scene4d/models/gaussian_flow/networks/vae.py:rows_of_cells",
        "scene4d/models/gaussian_flow/scene/observe.py:focus_of",
        "scene4d/models/pixel_transformer/model.py:continued",
        "scene4d/scene.py:_between",
        "scene4d/scene.py:_moved",
    },
    "words": {
        "scene4d/apps/compose/scene_start.py:_said",
        "scene4d/apps/compose/scene_start.py:told",
        "scene4d/apps/compose/scene_start.py:told_states",
        "scene4d/apps/training/import_recordings.py:take_in_one",
        "scene4d/apps/training/import_recordings.py:take_in_stage",
        "scene4d/apps/training/world_parts.py:train_intent",
        "scene4d/models/gaussian_flow/loss.py:said",
        "scene4d/models/gaussian_flow/model.py:said",
        "scene4d/models/gaussian_flow/motion/rollout_training.py:_last_ways",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:Intent",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:IntentConfig",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:_told",
        "scene4d/models/gaussian_flow/networks/action_denoiser.py:intent_loss",
        "scene4d/models/gaussian_flow/networks/proprio.py:_told",
        "scene4d/models/gaussian_flow/networks/skin_head.py:Matter",
        "scene4d/models/gaussian_flow/scene/free_space.py:out_of_sight",
        "scene4d/models/pixel_transformer/model.py:told",
    },
    "rooms": set(),
    "file names": set(),
    "ignored types": {
        "scene4d/tensor_struct.py: 3",
        "scene4d/types.py: 1",
    },
}
