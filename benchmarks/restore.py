"""`bench restore`: bring a model's files from an S3 store to the disk, ours against what a user would use instead.

    python -m benchmarks.restore                 loopback, plain http
    python -m benchmarks.restore --wan 125       behind a line of 125 MB/s in all, 40 MB/s a connection, 20 ms
    python -m benchmarks.restore --tls           behind TLS 1.3
    python -m benchmarks.restore --tune          ours alone over range sizes and numbers of connections

Everybody takes turns within each run against the same SeaweedFS, on the same cores; what counts are the ratios.
`guaranteed` is the time with the guarantee that ours has: the tool, then sha256sum over what it wrote, as a user would. Where
coreutils lack the CPU's SHA instructions that is slow, so `fast_guaranteed` has `openssl dgst -sha256` instead.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import measure, peers, report
from benchmarks.lines import line
from tests.fakes.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, seaweed

BUCKET, PREFIX = "bench", "models/"
SIZES = {"model.safetensors": 1_350_000_000, "vocoder.bin": 54_000_000}
RTT_S, PER_CONNECTION = 0.02, 40e6
COMMIT = "b" * 40
PEERS = Path(__file__).parents[1] / ".venv-bench" / "bin"  # what requirements-bench.txt pins
BARES = ((4, 16), (8, 8))  # connections, MiB a range: the best here; the faster one counts
BARES_WAN = ((16, 8), (24, 4))


def main() -> int:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-restore-", dir=args.dir) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(seaweed(folder / "store"))
        files = _seed(server, folder, scale=args.scale)
        address, ca_file = _front(stack, server, folder, args)
        job = _job(address, files, ca_file)
        contestants = _tuning(job, folder) if args.tune else _contestants(job, folder, args, stack)
        costs = _rounds(contestants, folder, files, args.runs)
    result = _result(args, costs, files)
    _print(result)
    measure.write(Path(args.out or _default_out(args)), result)
    return report.verdict(report.restore_bars(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--wan", type=int, metavar="MB/S", help="the line's total")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the files' sizes, for a quick look")
    parser.add_argument("--peers", type=Path, default=PEERS, help="a folder with s5cmd, rclone and aws, before PATH")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--dir", help="where store and downloads lie")
    parser.add_argument("--out")
    return parser.parse_args()


def _default_out(args: argparse.Namespace) -> Path:
    kind = "-tune" if args.tune else ""
    return Path(__file__).with_name("results") / f"restore{f'-wan{args.wan}' if args.wan else ''}{'-tls' if args.tls else ''}{kind}.json"


# the stage


def _seed(server: Seaweed, folder: Path, *, scale: float) -> list[dict[str, object]]:
    """Random files of the real sizes, in the bucket and, for the hub, on the disk."""
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    files: list[dict[str, object]] = []
    for name, full_size in SIZES.items():
        size, path = int(full_size * scale), folder / "hub" / "bench" / name.partition(".")[0] / name
        path.parent.mkdir(parents=True)
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for at in range(0, size, 16 << 20):
                block = os.urandom(min(16 << 20, size - at))
                digest.update(block)
                file.write(block)
        client.upload_file(str(path), BUCKET, PREFIX + name)
        files.append({"name": name, "key": PREFIX + name, "size": size, "sha256": digest.hexdigest()})
    os.sync()  # or the first contestant would pay for the writing back
    return files


def _front(stack: contextlib.ExitStack, server: Seaweed, folder: Path, args: argparse.Namespace) -> tuple[str, Path | None]:
    """The address that everybody uses: the store's own, or a line or TLS in front of it."""
    address, ca_file = server.endpoint_url.partition("://")[2], None
    if args.tls:
        address, ca_file = stack.enter_context(_nginx(address, folder / "tls"))
    if args.wan:
        address = stack.enter_context(line(address, rtt_s=RTT_S, per_connection=PER_CONNECTION, total=args.wan * 1e6)).address
    return f"{'https' if args.tls else 'http'}://{address}", ca_file


@contextlib.contextmanager
def _nginx(upstream: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """TLS 1.3 in front of the store, with a certificate of its own for 127.0.0.1."""
    folder.mkdir()
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = int(upstream.rpartition(":")[2]) - 7_000  # free: the store took its ports in pairs above 20,000
    config = folder / "nginx.conf"
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(f"""
daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 100000; {temporary}
  proxy_max_temp_file_size 0; proxy_buffers 16 64k; proxy_buffer_size 64k;
  upstream store {{ server {upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
    location / {{ proxy_pass http://store; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection ""; }}
  }}
}}
""")
    process = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        _wait_listening(port)
        yield f"127.0.0.1:{port}", cert
    finally:
        process.terminate()
        process.wait()


def _wait_listening(port: int) -> None:
    import socket

    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError("the TLS server does not listen")


def _job(endpoint_url: str, files: list[dict[str, object]], ca_file: Path | None) -> peers.Job:
    import boto3
    from botocore.config import Config

    signer = boto3.client(
        "s3", endpoint_url=endpoint_url, region_name="us-east-1", aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )  # fmt: skip
    for file in files:
        file["url"] = signer.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": file["key"]}, ExpiresIn=86_400)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "HF_"))}
    env = kept | {
        "S3_BUCKET": BUCKET, "AWS_ENDPOINT_URL": endpoint_url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    if ca_file:
        env |= {"AWS_CA_BUNDLE": str(ca_file), "SSL_CERT_FILE": str(ca_file)}
    return peers.Job(BUCKET, PREFIX, endpoint_url, files, env, ca_file)


# the contest

Contestants = dict[str, tuple[list[str], Mapping[str, str]]]


def _contestants(job: peers.Job, folder: Path, args: argparse.Namespace, stack: contextlib.ExitStack) -> Contestants:
    out = folder / "out"
    found: Contestants = {"ours": (peers.client("ours", out, files=job.files), job.env)}
    for connections, mib in BARES_WAN if args.wan else BARES:
        command = peers.client("bare", out, files=job.files, connections=connections, range_bytes=mib << 20)
        found[f"bare {connections} x {mib} MiB"] = (command, job.env)
    for peer in peers.find(args.peers):
        print(f"{peer.name}: {peer.version}", file=sys.stderr)
        if peer.program:
            found[peer.name] = (peer.command(job, out), job.env)
    if not (args.wan or args.tls):
        repos, url = _hub(stack, folder, job)
        found["hub download"] = (peers.client("hub", out, files=job.files, repos=repos, commit=COMMIT), {**job.env, "HF_ENDPOINT": url})
    return {name: entry for name, entry in found.items() if not args.only or name in args.only}


def _tuning(job: peers.Job, folder: Path) -> Contestants:
    """Ours with other range sizes and numbers of connections."""
    grid = [(c, r) for c in (4, 6, 8, 16, 24) for r in (4, 8, 16) if c * r <= 200]
    every = {(c, r): {"connections": c, "first_connections": c, "first_tls_connections": c, "range_bytes": r << 20} for c, r in grid}
    return {
        f"{c} x {r} MiB": (peers.client("ours", folder / "out", files=job.files, limits=limits), job.env)
        for (c, r), limits in every.items()
    }


def _hub(stack: contextlib.ExitStack, folder: Path, job: peers.Job) -> tuple[list[str], str]:
    """A loopback stand-in for the hub that serves the same files, in its own process."""
    model, vocoder = job.files
    entries = {f["name"]: {"path": f["name"], "size": f["size"], "sha256": f["sha256"]} for f in (model, vocoder)}
    registry = {
        "vocoders": {"v": {"repo": "bench/vocoder", "commit": COMMIT, "files": [entries[vocoder["name"]]],
                           "config": vocoder["name"], "weights": vocoder["name"]}},
        "models": {"m": {"repo": "bench/model", "commit": COMMIT, "files": [entries[model["name"]]], "checkpoint": model["name"],
                         "vocab": model["name"], "vocab_size": 1, "arch": {}, "mel": {}, "vocoder": "v", "license": ""}},
    }  # fmt: skip
    path = folder / "models.json"
    path.write_text(json.dumps(registry))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.hub_server", str(path), str(folder / "hub")],
        env=dict(job.env),
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    return ["bench/model", "bench/vocoder"], json.loads(process.stdout.readline())["url"]


def _rounds(contestants: Contestants, folder: Path, files: list[dict[str, object]], runs: int) -> dict[str, list[dict[str, float]]]:
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    names = list(contestants)
    for n in range(runs):
        second_read: dict[str, measure.Cost] = {}  # of the same bytes in the same cache, whoever wrote them
        for name in names[n % len(names) :] + names[: n % len(names)]:  # nobody always runs after the same neighbour
            costs[name].append(_once(*contestants[name], folder / "out", files, None if _verifies(name) else second_read))
            print(f"run {n + 1} {name}: {costs[name][-1]['seconds']:.2f} s", file=sys.stderr)
    return costs


def _verifies(name: str) -> bool:
    return name.startswith(("ours", "bare")) or name.endswith(" MiB")


def _once(
    command: list[str], env: Mapping[str, str], out: Path, files: list[dict[str, object]], second_read: dict[str, measure.Cost] | None
) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()  # what the one before wrote is still being written back, and a file system's journal waits for it
    cost = measure.run(command, env)
    written = sorted(
        (p for p in out.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size > 1_000_000), key=lambda p: -p.stat().st_size
    )
    if [p.stat().st_size for p in written] != [f["size"] for f in files]:
        raise RuntimeError(f"{command[:3]} wrote {[(p.name, p.stat().st_size) for p in written]}")
    check, fast_check = (_second_read(program, written, env, second_read) for program in (["sha256sum"], ["openssl", "dgst", "-sha256"]))
    shutil.rmtree(out)
    return {
        "seconds": cost.seconds,
        "guaranteed_seconds": cost.seconds + check.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "fast_guaranteed_seconds": cost.seconds + fast_check.seconds,
        "fast_guaranteed_cpu_seconds": cost.cpu_seconds + fast_check.cpu_seconds,
        "guaranteed_cpu_seconds": cost.cpu_seconds + check.cpu_seconds,
        "peak_rss_bytes": cost.peak_rss_bytes,
    }


def _second_read(program: list[str], written: list[Path], env: Mapping[str, str], known: dict[str, measure.Cost] | None) -> measure.Cost:
    """What the guarantee costs by this program; nothing where `known` is None. Measured once a round."""
    if known is None:
        return measure.Cost(0, 0, 0)
    if program[0] not in known:
        known[program[0]] = measure.run([*program, *map(str, written)], env)
    return known[program[0]]


# the report


def _result(args: argparse.Namespace, costs: dict[str, list[dict[str, float]]], files: list[dict[str, object]]) -> dict[str, object]:
    total = sum(int(str(f["size"])) for f in files)
    medians = {name: {key: statistics.median(c[key] for c in runs) for key in runs[0]} for name, runs in costs.items()}
    rows = {name: m | _rates(m, total) for name, m in medians.items()}
    versions = {p.name: p.version for p in peers.find(args.peers)}
    return {
        "bench": "restore", "machine": measure.machine(), "versions": versions, "runs": args.runs, "bytes": total,
        "line": {"total_bytes_per_s": args.wan * 1e6, "per_connection": PER_CONNECTION, "rtt_s": RTT_S} if args.wan else None,
        "tls": args.tls, "medians": rows, "ratios": _ratios(rows, args, total), "raw": costs,
    }  # fmt: skip


def _rates(median: dict[str, float], total: int) -> dict[str, float]:
    rates = {}
    for kind in ("", "guaranteed_", "fast_guaranteed_"):
        rates[f"{kind}mb_per_s"] = total / median[f"{kind}seconds"] / 1e6
        rates[f"{kind}cpu_seconds_per_gb"] = median[f"{kind}cpu_seconds"] / total * 1e9
    return rates


def _ratios(rows: dict[str, dict[str, float]], args: argparse.Namespace, total: int) -> dict[str, float]:
    """Ours against the bars. Below 1 is better than what it is compared with."""
    if "ours" not in rows:
        return {}
    mine = rows["ours"]["seconds"]
    others = {name: row for name, row in rows.items() if not _verifies(name)}
    ratios = {f"ours / {name} + sha256sum": mine / row["guaranteed_seconds"] for name, row in others.items()}
    ratios |= {f"ours / {name} + openssl": mine / row["fast_guaranteed_seconds"] for name, row in others.items()}
    if others:
        ratios["ours / fastest peer without guarantee"] = mine / min(row["seconds"] for row in others.values())
    if bares := [row["seconds"] for name, row in rows.items() if name.startswith("bare")]:
        ratios["ours / bare"] = mine / min(bares)
    if args.wan:
        ratios["share of the line"] = total / mine / (args.wan * 1e6)
    return ratios


def _print(result: dict[str, object]) -> None:
    print(f"\n{'':16}{'s':>8}{'MB/s':>8}{'+sha256 s':>11}{'+openssl s':>12}{'CPU s/GB':>10}{'+openssl':>10}{'RSS MB':>8}")
    rows: dict[str, dict[str, float]] = result["medians"]  # type: ignore[assignment]
    for name, row in sorted(rows.items(), key=lambda entry: entry[1]["fast_guaranteed_seconds"]):
        print(f"{name:16}{row['seconds']:8.2f}{row['mb_per_s']:8.0f}{row['guaranteed_seconds']:11.2f}"
              f"{row['fast_guaranteed_seconds']:12.2f}{row['cpu_seconds_per_gb']:10.2f}"
              f"{row['fast_guaranteed_cpu_seconds_per_gb']:10.2f}{row['peak_rss_bytes'] / 1e6:8.0f}")  # fmt: skip
    for name, ratio in result["ratios"].items():  # type: ignore[attr-defined]
        print(f"{name:45}{ratio:6.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
