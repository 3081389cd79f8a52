"""What each topic of a ROS log is to a recording: pictures, joints, commands, or nothing that is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from scene4d.data.formats.ros.ros_log import COMPRESSED, IMAGE, JOINTS, Topic
from scene4d.ledger import LeftOut

_COMMAND = re.compile(r"(^|[/_])(cmd|command|commands|commanded|desired|target|goal|action|actions)(_|/|$)", re.I)
_COMMAND_KINDS = re.compile(r"/(JointTrajectory|Twist|TwistStamped|AckermannDrive|AckermannDriveStamped)$")
_PICTURES = re.compile(r"/(CompressedVideo|FFMPEGPacket|RawImage|\w*Image|ImageData|VideoFrame)$|theora", re.I)


def is_command(name: str, topic: Topic) -> bool:
    """Whether a topic tells the robot what to do."""
    return bool(_COMMAND.search(name) or _COMMAND_KINDS.search(topic.kind))


def joint_topics(topics: Mapping[str, Topic]) -> list[str]:
    """Topics with the state of joints; commands to joints are none."""
    usable = {name: topic for name, topic in topics.items() if topic.kind == JOINTS and topic.count}
    return sorted(name for name, topic in usable.items() if not topic.refused and not is_command(name, topic))


def image_topics(topics: Mapping[str, Topic]) -> list[str]:
    """Topics with images that can be decoded."""
    return sorted(n for n, t in topics.items() if t.kind in (IMAGE, COMPRESSED) and t.count and not t.refused)


def unused_topics(topics: Mapping[str, Topic], *, used: Collection[str]) -> list[LeftOut]:
    """What becomes of the topics that are not read, and were not named yet."""
    groups: dict[str, list[str]] = {"pictures": [], "joints": [], "commands": [], "rest": [], "empty": []}
    for name, topic in sorted(topics.items()):
        if name in used:
            continue
        kind = "rest"
        if not topic.count:
            kind = "empty"
        elif _PICTURES.search(topic.kind):
            kind = "pictures"
        elif is_command(name, topic):
            kind = "commands"
        elif topic.kind == JOINTS:
            kind = "joints"
        groups[kind].append(f"{name} ({topic.kind}{', ' + topic.refused if topic.refused else ''})")
    pictures, joints, commands, rest, empty = (tuple(group) for group in groups.values())
    convert = "convert them to sensor_msgs/msg/Image or CompressedImage (JPEG, PNG)"
    as_state = "record it as sensor_msgs/msg/JointState in CDR"
    by_frame = "convert to LeRobot, and add them as a column named action"
    return [
        LeftOut("topics", "images", pictures, "pictures of a kind that is not read", convert),
        LeftOut("topics", "proprio", joints, "joint states that cannot be decoded", as_state),
        LeftOut("topics", "actions", commands, "commands are not read as actions", by_frame),
        LeftOut("topics", "topics", rest, "neither camera, pose nor joint state", lost=False),
        LeftOut("topics", "topics", empty, "announced, but without a message", lost=False),
    ]
