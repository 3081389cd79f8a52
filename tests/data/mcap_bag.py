"""MCAP files written by mcap_ros2: a camera on a moving arm over a painted floor."""

import io

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, photograph, pose
from PIL import Image
from scipy.spatial.transform import Rotation

writer = pytest.importorskip("mcap_ros2.writer")

START, FPS, COUNT = 1_700_000_000, 10, 6
BY_INDEX = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
LINE = "=" * 80
HEADER = f"""
{LINE}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
{LINE}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
SIZE = "uint32 height\nuint32 width\n"
IMAGE = f"std_msgs/Header header\n{SIZE}string encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
COMPRESSED = "std_msgs/Header header\nstring format\nuint8[] data"
INFO = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\nfloat64[] d\nfloat64[9] k\n"
    "float64[9] r\nfloat64[12] p"
)
TF = f"""geometry_msgs/TransformStamped[] transforms
{LINE}
MSG: geometry_msgs/TransformStamped
std_msgs/Header header
string child_frame_id
geometry_msgs/Transform transform
{LINE}
MSG: geometry_msgs/Transform
geometry_msgs/Vector3 translation
geometry_msgs/Quaternion rotation
{LINE}
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
{LINE}
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w"""
JOINTS = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
MOUNT = pose(5)  # hand_from_camera: any rigid motion will do


class McapBag:
    """Writes messages with times in seconds from the start."""

    def __init__(self, path):
        self.file, self.count = path.open("wb"), 0
        self.writer = writer.Writer(self.file)
        kinds = {"Image": IMAGE, "CompressedImage": COMPRESSED, "CameraInfo": INFO, "JointState": JOINTS}
        self.schemas = {k: self.writer.register_msgdef(f"sensor_msgs/msg/{k}", v + HEADER) for k, v in kinds.items()}
        self.schemas["TF"] = self.writer.register_msgdef("tf2_msgs/msg/TFMessage", TF + HEADER)

    def header(self, time, frame):
        nanosec = round(time * 1e9)
        return {"stamp": {"sec": START + nanosec // 10**9, "nanosec": nanosec % 10**9}, "frame_id": frame}

    def write(self, topic, kind, time, *, logged=None, **fields):
        """One message stamped `time` s from the start; `logged` s likewise, by default 1 ms after the one before."""
        frame = fields.pop("frame", "cam")
        if kind != "TF":
            fields.setdefault("header", self.header(time, frame))
        self.count += 1
        # The logger's clock runs on, whatever the stamps say.
        logged = START * 10**9 + (self.count * 10**6 if logged is None else round(logged * 1e9))
        self.writer.write_message(topic, self.schemas[kind], fields, log_time=logged, publish_time=logged)

    def image(self, topic, time, values, *, encoding, padding=4, **more):
        rows = np.pad(np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1), ((0, 0), (0, padding)))
        size = {"height": len(values), "width": values.shape[1], "step": rows.shape[1], "is_bigendian": 0}
        self.write(topic, "Image", time, encoding=encoding, data=rows.tobytes(), **size, **more)

    def transform(self, time, parent, child, matrix, *, fixed=False):
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        shift = dict(zip("xyz", matrix[:3, 3], strict=True))
        body = {"translation": shift, "rotation": {"x": x, "y": y, "z": z, "w": w}}
        one = {"header": self.header(time, parent), "child_frame_id": child, "transform": body}
        self.write("/tf_static" if fixed else "/tf", "TF", time, transforms=[one])

    def close(self):
        self.writer.finish()
        self.file.close()


def record(folder, *, compressed=False, info=True, tf=lambda i: True, tick=lambda i: i / FPS, **changes):
    bag = McapBag(folder / "run.mcap")
    camera = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": [0.0] * 5}
    camera |= {"k": BY_INDEX.ravel().tolist(), "r": np.eye(3).ravel().tolist(), "p": [0.0] * 12} | changes
    bag.transform(0, "hand", "cam", MOUNT, fixed=True)
    for i in range(COUNT):
        picture, metres = photograph(0.2 * i)
        time = tick(i)
        if tf(i):
            for early in (-0.02, 0.02):  # the arm stands still round each shot
                bag.transform(time + early, "world", "hand", pose(0.2 * i) @ np.linalg.inv(MOUNT))
        if info:
            bag.write("/head/color/camera_info", "CameraInfo", time, **camera)
        if compressed:
            buffers = [io.BytesIO(), io.BytesIO()]
            Image.fromarray(picture).save(buffers[0], "png")
            Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(buffers[1], "png")
            data = [b.getvalue() for b in buffers]
            bag.write("/head/color/image_raw/compressed", "CompressedImage", time, format="rgb8; png", data=data[0])
            form = "16UC1; compressedDepth png"
            depth = bytes(12) + data[1]
            bag.write("/head/aligned/image_raw/compressedDepth", "CompressedImage", time, format=form, data=depth)
        else:
            bag.image("/head/color/image_raw", time, picture[..., ::-1], encoding="bgr8")
            if i % 2:
                depth, encoding = np.where(metres > 0, metres, np.nan).astype(np.float32), "32FC1"
            else:
                depth, encoding = np.round(metres * 1000).astype(np.uint16), "16UC1"
            bag.image("/head/aligned/image_raw", time + 0.011, depth, encoding=encoding, padding=0)
            bag.image("/head/infra/image_raw", time, metres.astype(np.float32), encoding="32FC1", frame="infra")
        bag.write(
            "/joint_states", "JointState", time, name=["a", "finger"], position=[i / 1, -1.0], velocity=[], effort=[]
        )
    bag.close()
    return folder
