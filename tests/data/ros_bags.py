"""Bags of ROS 1 and ROS 2 written by rosbags: a still camera over the painted floor, two arms, a moving hand."""

import io

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, photograph, pose
from PIL import Image
from scipy.spatial.transform import Rotation

typesys = pytest.importorskip("rosbags.typesys")
rosbag1 = pytest.importorskip("rosbags.rosbag1")
rosbag2 = pytest.importorskip("rosbags.rosbag2")
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin

FPS, COUNT, START = 10, 6, 1_700_000_000
BY_INDEX = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


class Ros:
    """Messages of one version of ROS; `write` is what a bag's writer is given."""

    def __init__(self, version):
        self.version = version
        stores = typesys.Stores
        self.store = typesys.get_typestore(stores.ROS1_NOETIC if version == 1 else stores.ROS2_HUMBLE)
        if version == 1:
            fields = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(typesys.get_types_from_msg(fields, "tf2_msgs/msg/TFMessage"))

    def make(self, kind, **fields):
        return self.store.types[kind](**fields)

    def header(self, time, frame):
        nanosec = round(time * 1e9)
        stamp = self.make("builtin_interfaces/msg/Time", sec=START + nanosec // 10**9, nanosec=nanosec % 10**9)
        more = {"seq": 0} if self.version == 1 else {}
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame, **more)

    def image(self, time, values, *, encoding="rgb8", frame="cam"):
        values = np.ascontiguousarray(values)
        return self.make(
            "sensor_msgs/msg/Image", header=self.header(time, frame), height=values.shape[0], width=values.shape[1],
            encoding=encoding, is_bigendian=0, step=values.nbytes // len(values),
            data=values.view(np.uint8).reshape(-1),
        )  # fmt: skip

    def compressed(self, time, values, *, form="png", frame="cam"):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "png")
        data = np.frombuffer(buffer.getvalue(), np.uint8)
        return self.make("sensor_msgs/msg/CompressedImage", header=self.header(time, frame), format=form, data=data)

    def camera_info(self, time, frame="cam"):
        names = "DKRP" if self.version == 1 else "dkrp"
        values = (np.zeros(5), BY_INDEX.reshape(-1), np.eye(3).reshape(-1), np.zeros(12))
        roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
        return self.make(
            "sensor_msgs/msg/CameraInfo", header=self.header(time, frame), height=HEIGHT, width=WIDTH,
            distortion_model="plumb_bob", binning_x=0, binning_y=0,
            roi=self.make("sensor_msgs/msg/RegionOfInterest", **roi), **dict(zip(names, values, strict=True)),
        )  # fmt: skip

    def transform(self, time, parent, child, matrix):
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        shift = self.make("geometry_msgs/msg/Vector3", **dict(zip("xyz", matrix[:3, 3], strict=True)))
        turn = self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
        body = self.make("geometry_msgs/msg/Transform", translation=shift, rotation=turn)
        link = {"header": self.header(time, parent), "child_frame_id": child, "transform": body}
        return self.make("tf2_msgs/msg/TFMessage", transforms=[self.make("geometry_msgs/msg/TransformStamped", **link)])

    def joints(self, time, **positions):
        values, none = np.array(list(positions.values()), np.float64), np.zeros(0)
        fields = {"header": self.header(time, ""), "name": list(positions), "position": values}
        return self.make("sensor_msgs/msg/JointState", **fields, velocity=none, effort=none)

    def text(self, words):
        return self.make("std_msgs/msg/String", data=words)

    def messages(self, first=0, last=COUNT):
        """(topic, time, message) of the frames `first` to before `last`; fixed links come with the first."""
        if first == 0:
            yield "/tf_static", 0, self.transform(0, "hand", "cam", pose(5))
        for i in range(first, last):
            time, (picture, metres) = i / FPS, photograph(0.2 * i)
            for early in (-0.02, 0.02):
                yield "/tf", time, self.transform(time + early, "world", "hand", pose(0.2 * i) @ np.linalg.inv(pose(5)))
            yield "/cam/camera_info", time, self.camera_info(time)
            yield "/cam/image_raw", time, self.image(time, picture)
            depth = np.round(metres * 1000).astype(np.uint16)
            yield "/cam/aligned/image_raw", time, self.image(time + 0.01, depth, encoding="16UC1")
            yield "/side/image/compressed", time, self.compressed(time, picture, frame="side")
            yield "/left/joint_states", time, self.joints(time, j1=i)
            yield "/right/joint_states", time, self.joints(time, j1=-i)
            yield "/chatter", time, self.text("hello")

    def write(self, bag, messages):
        """Put (topic, time, message) into an open writer of rosbags."""
        connections = {}
        serialize = self.store.serialize_ros1 if self.version == 1 else self.store.serialize_cdr
        for topic, time, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=self.store)
            logged = START * 10**9 + round((time + 0.05) * 1e9)
            bag.write(connections[topic], logged, serialize(message, kind))


def small_messages(ros):
    """One frame of one camera: what a search for bad inputs begins with."""
    return (message for message in ros.messages(0, 1) if not message[0].startswith("/side"))


def write_bag1(path, messages=None, *, compression=None):
    """A .bag."""
    ros = Ros(1)
    bag = rosbag1.Writer(path)
    if compression is not None:
        bag.set_compression(rosbag1.Writer.CompressionFormat[compression])
    with bag:
        ros.write(bag, ros.messages() if messages is None else messages(ros))
    return path


def write_bag2(folder, messages=None, *, plugin="SQLITE3", compression=None):
    """A folder with metadata.yaml and one file."""
    ros = Ros(2)
    bag = rosbag2.Writer(folder, version=9, storage_plugin=StoragePlugin[plugin])
    if compression is not None:
        bag.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with bag:
        ros.write(bag, ros.messages() if messages is None else messages(ros))
    return folder
