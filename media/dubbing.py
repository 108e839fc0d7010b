"""New sound of any length under an untouched picture, without holding either in memory."""

import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.audio import check_waveform
from media.errors import NotWritable
from media.opening import open_media, picture_stream
from media.picture import stream_start
from media.writing import AAC_BITS_PER_SECOND, SAMPLE_FORMATS, AudioCodec, output_container, restore_decoding_times


def dub(
    video_path: str | Path,
    sound: Iterable[np.ndarray],
    sample_rate: int,
    out_path: str | Path,
    audio_codec: AudioCodec = "aac",
) -> None:
    """As `media.writing.mux`, with the sound as blocks (2, S) in order; both streams are read and written as they come.

    Raises the MediaError of the input, BadSignal, and NotWritable when the output format cannot hold the picture.
    """
    with open_media(video_path) as source:
        stream = picture_stream(source, video_path)
        with output_container(out_path) as container:
            try:
                copy = container.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError) as error:
                raise NotWritable(out_path, f"cannot hold {stream.codec.name} video; name it .mkv instead.") from error
            if audio_codec not in container.supported_codecs:
                raise NotWritable(out_path, f"cannot hold {audio_codec} sound; name the file .mp4 or .mkv.")
            track = container.add_stream(
                audio_codec, rate=sample_rate, layout="stereo", format=SAMPLE_FORMATS[audio_codec]
            )
            if audio_codec == "aac":
                track.bit_rate = AAC_BITS_PER_SECOND
            checked = (check_waveform(out_path, block) for block in sound)
            pictures, sounds = _pictures(source, stream, copy), _sounds(track, checked, stream_start(stream))
            for packet in heapq.merge(pictures, sounds, key=_time):
                container.mux(packet)


def _pictures(source: InputContainer, stream: VideoStream, copy: VideoStream) -> Iterator[Packet]:
    """The picture's packets for another container; the first ones wait until a decoding time is known."""
    waiting: list[Packet] | None = []
    for packet in source.demux(stream):
        if packet.dts is None and packet.pts is None:
            continue
        if waiting is None:
            packet.stream = copy
            yield packet
            continue
        waiting.append(packet)
        if packet.dts is not None:
            yield from _released(waiting, copy)
            waiting = None
    yield from _released(waiting or [], copy)


def _released(packets: list[Packet], copy: VideoStream) -> Iterator[Packet]:
    restore_decoding_times(packets)
    for packet in packets:
        packet.stream = copy
        yield packet


def _sounds(track: AudioStream, blocks: Iterable[np.ndarray], begin: float) -> Iterator[Packet]:
    at = round(begin * track.rate)
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = track.rate, Fraction(1, track.rate), at
        at += block.shape[1]
        yield from track.encode(frame)
    yield from track.encode(None)


def _time(packet: Packet) -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return float((stamp or 0) * packet.time_base)
