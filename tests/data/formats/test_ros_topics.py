"""ROS logs as people have them: equal times of logging, several arms, topics that nobody reads, foreign types."""

import io
import json

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from mcap_bag import BY_INDEX, COMPRESSED, COUNT, FPS, HEADER, IMAGE, JOINTS, McapBag, record
from PIL import Image

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.errors import EXIT_INPUT, CalibrationError, DataFormatError, TimestampError
from scene4d.ledger import left_out

CAMERA = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": [0.0] * 5}
CAMERA |= {"k": BY_INDEX.ravel().tolist(), "r": np.eye(3).ravel().tolist(), "p": [0.0] * 12}


def still_camera(bag, folder="/cam", frame="cam"):
    """A camera that stands still, without pictures so far."""
    bag.transform(0, "world", frame, pose(1), fixed=True)
    bag.write(f"{folder}/camera_info", "CameraInfo", 0, frame=frame, **CAMERA)


def level(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def joints(bag, topic, time, *, logged=None, **positions):
    names, values = list(positions), [float(v) for v in positions.values()]
    bag.write(topic, "JointState", time, logged=logged, name=names, position=values, velocity=[], effort=[])


def levels_of(recording):
    (frames,) = recording.read().views.values()
    return (frames.rgb[:, 0, 0, 0] * 255).round().int().tolist()


def test_equal_times_of_logging_in_the_field(shared_data):
    (recording,) = open_recordings(shared_data / "field/mcap_cases/same_log.mcap")
    assert levels_of(recording) == list(range(0, 200, 10))
    assert [row["name"] for row in recording.info["proprio_spec"]] == ["j1", "j2", "finger"]
    expected = np.arange(20)[:, None] * [0.1, 0.2, 0.001]
    assert np.allclose(recording.read().proprio, expected, atol=1e-6)


@pytest.mark.parametrize("share", [2, 3, 5])
def test_messages_logged_at_one_time_are_ordered_by_their_stamps(tmp_path, share):
    """Whatever order they lie in: here the newest of each batch comes first."""
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in sorted(range(15), key=lambda i: (i // share, -i)):
        batch = i // share * share / FPS
        bag.image("/cam/image_raw", i / FPS, level(10 * i + 5), encoding="rgb8", logged=batch)
        joints(bag, "/joint_states", i / FPS, logged=batch, j1=i, j2=-i)
        joints(bag, "/joint_states", i / FPS, logged=batch, finger=0.5 * i)
    bag.close()
    (recording,) = open_recordings(tmp_path)
    assert levels_of(recording) == [10 * i + 5 for i in range(15)]
    assert np.allclose(recording.read().proprio, np.arange(15)[:, None] * [1, -1, 0.5])
    assert not left_out(recording.info), "nothing was late"
    (frames,) = recording.read(3, 12, stride=4).views.values()
    assert (frames.rgb[:, 0, 0, 0] * 255).round().int().tolist() == [35, 75, 115]


def test_a_late_message_is_noted(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in [0, 1, 3, 2, 4]:
        bag.image("/cam/image_raw", i / FPS, level(10 * i), encoding="rgb8")
    bag.close()
    (recording,) = open_recordings(tmp_path)
    assert levels_of(recording) == [0, 10, 20, 30, 40]
    (entry,) = left_out(recording.info)
    assert (entry.kind, entry.names, entry.lost) == ("late_messages", ("/cam/image_raw 1",), False)


@pytest.mark.parametrize("stamp", [lambda i: {"sec": 0, "nanosec": 0}, lambda i: {"sec": 17, "nanosec": 5}])
def test_stamps_that_say_nothing_give_way_to_the_times_of_logging(tmp_path, stamp):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in range(5):
        header = {"stamp": stamp(i), "frame_id": "cam"}
        bag.image("/cam/image_raw", 0, level(10 * i), encoding="rgb8", logged=i / FPS, header=header)
    bag.close()
    (recording,) = open_recordings(tmp_path)
    assert levels_of(recording) == [0, 10, 20, 30, 40] and recording.fps == pytest.approx(FPS)
    assert left_out_names(recording, "unset_stamps") == ["/cam/image_raw 5"]


def test_a_clock_that_was_set_back_is_refused(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i, time in enumerate([0, 1, 2, 3, 0.55, 1.55]):
        bag.image("/cam/image_raw", time, level(10 * i), encoding="rgb8")
    bag.close()
    with pytest.raises(TimestampError, match=r"image_raw: frame 4: .*set back"):
        open_recordings(tmp_path)


def test_two_arms_in_the_field(shared_data):
    (recording,) = open_recordings(shared_data / "field/mcap_cases/two_arms.mcap")
    assert [row["name"] for row in recording.info["proprio_spec"]] == ["left.j1", "left.j2", "right.j1", "right.j2"]
    assert recording.read().proprio.shape == (20, 4)


def test_joints_of_several_topics_are_columns_with_names_that_differ(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in range(4):
        bag.image("/cam/image_raw", i / FPS, level(10 * i), encoding="rgb8")
        joints(bag, "/robot/a/arm/states", i / FPS, j1=i, wrist=1)
        joints(bag, "/robot/b/arm/states", i / FPS, j1=2 * i)
        joints(bag, "/gripper/states", i / FPS + 0.01, finger=3 * i)
    bag.close()
    (recording,) = open_recordings(tmp_path)
    names = [row["name"] for row in recording.info["proprio_spec"]]
    columns = dict(zip(names, recording.read().proprio.T.tolist(), strict=True))
    arms = {"robot.a.arm.j1": [0, 1, 2, 3], "wrist": [1] * 4, "robot.b.arm.j1": [0, 2, 4, 6]}
    assert columns == {"finger": [0, 3, 6, 9]} | arms


def test_joints_that_were_not_recorded_all_the_time_are_a_finding(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in range(30):
        bag.image("/cam/image_raw", i / FPS, level(i), encoding="rgb8")
        if i < 10:
            joints(bag, "/joint_states", i / FPS, j1=i)
    bag.close()
    (recording,) = open_recordings(tmp_path)
    assert left_out_names(recording, "stale_joints") == ["j1 2.0 s"]


def test_every_topic_that_is_not_read_is_listed(tmp_path):
    record(tmp_path)
    whole = open_recordings(tmp_path)[0]
    bag = McapBag(tmp_path / "run.mcap")
    kinds = {
        "/rosout": "rcl_interfaces/msg/Log", "/lidar": "sensor_msgs/msg/PointCloud2",
        "/mic": "audio_common_msgs/msg/AudioData", "/side/video": "foxglove_msgs/msg/CompressedVideo",
        "/cmd_vel": "geometry_msgs/msg/Twist", "/arm/target": "std_msgs/msg/Float64MultiArray",
    }  # fmt: skip
    for kind in kinds.values():
        bag.schemas[kind] = bag.writer.register_msgdef(kind, "float64 x")
    still_camera(bag)
    still_camera(bag, "/other", frame="nowhere_else")
    bag.transform(0, "moon", "crater", pose(2), fixed=True)
    for i in range(3):
        bag.image("/cam/image_raw", i / FPS, photograph(1)[0], encoding="rgb8")
        bag.image("/plain/image_raw", i / FPS, level(9), encoding="rgb8")
        bag.image("/raw/image_raw", i / FPS, level(9)[..., 0], encoding="bayer_rggb8")
        bag.write("/far/image/compressed", "CompressedImage", i / FPS, format="h264", data=b"\0\0\0\1" * 9)
        bag.image("/lost/image_raw", i / FPS, level(9), encoding="rgb8", frame="never_linked")
        joints(bag, "/arm/joint_command", i / FPS, j1=i)
        for topic, kind in kinds.items():
            bag.writer.write_message(topic, bag.schemas[kind], {"x": 1.0}, log_time=i, publish_time=i)
    bag.write("/lost/camera_info", "CameraInfo", 0, frame="never_linked", **CAMERA)
    bag.close()
    assert not [e for e in left_out(whole.info) if e.lost and e.kind != "depth_not_registered"]
    (recording,) = open_recordings(tmp_path)
    assert recording.cameras == ("cam",), "the pictures of the others are not there"
    assert_true_to_the_floor(recording.read())
    found = {name.split()[0]: entry.lost for entry in left_out(recording.info) for name in entry.names}
    silent = dict.fromkeys(["/rosout", "/lidar", "/mic", "crater"], False)
    pictures = ["/side/video", "/plain/image_raw", "/raw/image_raw", "/far/image/compressed", "lost"]
    commands = ["/cmd_vel", "/arm/target", "/arm/joint_command"]
    assert found == silent | dict.fromkeys([*pictures, *commands], True)


def test_check_says_what_was_left_out(tmp_path, capsys):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    for i in range(3):
        bag.image("/cam/image_raw", i / FPS, photograph(1)[0], encoding="rgb8")
        bag.image("/plain/image_raw", i / FPS, level(9), encoding="rgb8")
    bag.close()
    assert main(["check", str(tmp_path)]) == EXIT_INPUT
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert "no_calibration" in [f["kind"] for f in result["findings"]]


def test_cameras_that_tf_never_places_are_refused(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    bag.transform(0, "world", "hand", pose(1), fixed=True)
    bag.write("/cam/camera_info", "CameraInfo", 0, **CAMERA)
    bag.image("/cam/image_raw", 0, level(9), encoding="rgb8")
    bag.close()
    with pytest.raises(CalibrationError, match=r"tf: no pose.*\['cam'\]"):
        open_recordings(tmp_path)


def test_floats_in_compressed_depth(tmp_path):
    """Sixteen bits of the inverse: a / depth + b, with a and b in front of the picture."""
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    picture, metres = photograph(1)
    codes = np.where(metres > 0, 5000 / np.where(metres > 0, metres, 1) + 3, 0).round().astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "png")
    data = np.array([0], "<i4").tobytes() + np.array([5000, 3], "<f4").tobytes() + buffer.getvalue()
    for i in range(3):
        bag.image("/cam/image_raw", i / FPS, picture, encoding="rgb8")
        form = "32FC1; compressedDepth png"
        bag.write("/cam/depth/compressedDepth", "CompressedImage", i / FPS, format=form, data=data)
    bag.close()
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read())


FOREIGN = {
    "no encoding": ("Image", IMAGE.replace("string encoding", "string format_name"), "/cam/image_raw", "encoding"),
    "no stamp": ("Image", IMAGE.replace("std_msgs/Header header", "uint32 header"), "/cam/image_raw", "header.stamp"),
    "width of text": ("Image", IMAGE.replace("uint32 width", "string width"), "/cam/image_raw", "width"),
    "no k": (
        "CameraInfo",
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\nfloat64[] d\nfloat64[9] matrix",
        "/cam/camera_info",
        "the field k",
    ),
    "joints by another name": ("JointState", JOINTS.replace("name", "names"), "/joint_states", "the field name"),
    "no format": ("CompressedImage", COMPRESSED.replace("string format", "string codec"), "/cam/compressed", "format"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_67_types_of_known_names_with_other_fields(tmp_path, capsys, name):
    """Refused with file and topic, exit code 3, wherever the type is met."""
    kind, fields, topic, word = FOREIGN[name]
    bag = McapBag(tmp_path / "run.mcap")
    values = {"header": bag.header(0, "cam"), "height": HEIGHT, "width": WIDTH, "data": bytes(HEIGHT * WIDTH * 3)}
    values |= {"encoding": "rgb8", "format_name": "rgb8", "is_bigendian": 0, "step": WIDTH * 3, "codec": "png"}
    values |= {"distortion_model": "", "d": [], "matrix": [1.0] * 9, "names": ["a"], "position": [0.0], "velocity": []}
    values |= {"effort": []} | ({"header": 7} if "uint32 header" in fields else {})
    values |= {"width": "9"} if "string width" in fields else {}
    still_camera(bag, "/side" if kind == "CameraInfo" else "/cam")
    if kind != "Image":
        bag.image("/cam/image_raw", 0, level(9), encoding="rgb8")
    schema = bag.writer.register_msgdef(f"sensor_msgs/msg/{kind}", fields + HEADER)
    wanted = [line.split()[1] for line in fields.splitlines()]
    bag.writer.write_message(topic, schema, {k: values[k] for k in wanted}, log_time=1, publish_time=1)
    bag.close()
    with pytest.raises(DataFormatError, match=word) as caught:
        open_recordings(tmp_path)[0].read()
    assert caught.value.field == topic and str(tmp_path) in caught.value.file
    assert main(["check", str(tmp_path)]) == EXIT_INPUT
    assert main(["convert", str(tmp_path), "-o", str(tmp_path.parent / f"out {len(name)}")]) == EXIT_INPUT
    assert "internal" not in capsys.readouterr().err


def test_a_header_that_does_not_come_first_is_still_read(tmp_path):
    bag = McapBag(tmp_path / "run.mcap")
    still_camera(bag)
    fields = IMAGE.replace("std_msgs/Header header\n", "") + "\nstd_msgs/Header header"
    schema = bag.writer.register_msgdef("sensor_msgs/msg/Image", fields + HEADER)
    for i in range(COUNT):
        values = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * WIDTH}
        values |= {"data": level(10 * i).tobytes(), "header": bag.header(i / FPS, "cam")}
        bag.writer.write_message("/cam/image_raw", schema, values, log_time=i, publish_time=i)
    bag.close()
    (recording,) = open_recordings(tmp_path)
    assert levels_of(recording) == [10 * i for i in range(COUNT)] and recording.fps == pytest.approx(FPS)
