"""Writing video files: H.264 with sound, or new sound under an untouched picture."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from media.audio import check_waveform
from media.errors import BadSignal, NotWritable
from media.opening import open_media, picture_stream
from media.picture import stream_start

AudioCodec = Literal["aac", "flac"]
SAMPLE_FORMATS = {"aac": "fltp", "flac": "s32"}
AAC_BITS_PER_SECOND = 192_000
# With adaptive quantisation, x264 encodes the same frames differently from call to call.
REPRODUCIBLE = "aq-mode=0:mbtree=0"


def write_clip(
    path: str | Path,
    frames: np.ndarray,
    fps: float,
    waveform: np.ndarray | None = None,
    sample_rate: int | None = None,
    audio_codec: AudioCodec = "aac",
    crf: int = 18,
) -> None:
    """Write (T, H, W, 3) uint8 RGB frames at `fps` Hz as H.264, with (2, S) sound when given.

    Odd sides are padded by one pixel, which the format demands. The file appears only when complete.
    Raises BadSignal and NotWritable.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise BadSignal(path, f"expected frames (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}.")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(100_000)
    with output_container(path) as container:
        options = {"crf": str(crf), "threads": "1", "x264-params": REPRODUCIBLE}
        try:
            video = container.add_stream("libx264", rate=rate, options=options)
        except ValueError as error:
            raise NotWritable(path, "this format cannot hold H.264 video; name the file .mp4, .mkv or .mov.") from error
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = 1 / rate
        sound = _add_sound(container, path, waveform, sample_rate, audio_codec)
        pictures = []
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            pictures += video.encode(frame)
        _interleave(container, pictures + video.encode(None), _encode(sound, 0.0))


def mux(
    video_path: str | Path,
    waveform: np.ndarray,
    sample_rate: int,
    out_path: str | Path,
    audio_codec: AudioCodec = "aac",
) -> None:
    """Copy the picture of `video_path` packet by packet and put (2, S) sound under it; time 0 is the first frame.

    Raises the MediaError of the input, BadSignal, and NotWritable when the output format cannot hold the picture.
    """
    with open_media(video_path) as source:
        stream = picture_stream(source, video_path)
        with output_container(out_path) as container:
            try:
                copy = container.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError) as error:
                raise NotWritable(out_path, f"cannot hold {stream.codec.name} video; name it .mkv instead.") from error
            sound = _add_sound(container, out_path, waveform, sample_rate, audio_codec)
            packets = [packet for packet in source.demux(stream) if packet.dts is not None or packet.pts is not None]
            restore_decoding_times(packets)
            for packet in packets:
                packet.stream = copy
            _interleave(container, packets, _encode(sound, stream_start(stream)))


def _add_sound(
    container: OutputContainer, path: str | Path, waveform: np.ndarray | None, rate: int | None, codec: AudioCodec
) -> tuple[AudioStream, np.ndarray, str] | None:
    if waveform is None:
        return None
    if rate is None or rate <= 0:
        raise BadSignal(path, f"sound was given with sample rate {rate}; name its rate in Hz.")
    if codec not in container.supported_codecs:
        raise NotWritable(path, f"this format cannot hold {codec} sound; name the file .mp4 or .mkv.")
    samples = check_waveform(path, waveform)
    layout = "stereo" if samples.shape[0] == 2 else "mono"
    stream = container.add_stream(codec, rate=rate, layout=layout, format=SAMPLE_FORMATS[codec])
    if codec == "aac":
        stream.bit_rate = AAC_BITS_PER_SECOND
    return stream, samples, layout


def _encode(sound: tuple[AudioStream, np.ndarray, str] | None, begin: float) -> list[Packet]:
    if sound is None:
        return []
    stream, samples, layout = sound
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
    frame.pts = round(begin * stream.rate)
    return [*stream.encode(frame), *stream.encode(None)]


def restore_decoding_times(packets: list[Packet]) -> None:
    """Matroska keeps no decoding times and the reader leaves the first ones open; count back from the first known."""
    known = next((i for i, packet in enumerate(packets) if packet.dts is not None), None)
    for i in reversed(range(len(packets) if known is None else known)):
        after = packets[i + 1].dts if i + 1 < len(packets) else packets[i].pts
        packets[i].dts = (after or 0) - max(1, packets[i].duration or 1)


def _interleave(container: OutputContainer, *streams: list[Packet]) -> None:
    def time(packet: Packet) -> float:
        stamp = packet.dts if packet.dts is not None else packet.pts
        return float((stamp or 0) * packet.time_base)

    for packet in sorted((p for packets in streams for p in packets), key=time):
        container.mux(packet)


@contextmanager
def output_container(path: str | Path) -> Iterator[OutputContainer]:
    """A container under a temporary name that takes the real one when everything went well."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        container = av.open(os.fspath(partial), mode="w")
    except (OSError, ValueError, av.FFmpegError) as error:
        partial.unlink(missing_ok=True)
        raise NotWritable(path, f"cannot be written ({error}); use a writable folder and mp4, mkv or mov.") from error
    try:
        with container:
            yield container
        os.replace(partial, path)
    except (OSError, av.FFmpegError) as error:
        raise NotWritable(path, f"cannot be written ({error}); check the disk and the format.") from error
    finally:
        partial.unlink(missing_ok=True)
