# F5-TTS worker for RunPod serverless. The default base is public; any image with Python 3.11 and pip works:
#     docker build --build-arg BASE_IMAGE=my-registry/python:3.11 -t f5-tts-worker .
ARG BASE_IMAGE=python:3.11.13-slim-bookworm

# The pins that weigh gigabytes, cut out of requirements.txt: a change of another pin leaves their layer as it is.
FROM ${BASE_IMAGE} AS pins
COPY requirements.txt /pins/
RUN grep -E '^(torch|torchaudio|triton|nvidia-[a-z0-9-]+)==' /pins/requirements.txt > /pins/torch.txt

FROM ${BASE_IMAGE}
# Debian's own Python has no `python`, which CMD names, and refuses pip without the last of these.
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1
RUN command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
WORKDIR /app
# For builds behind a package index of one's own; a build argument stays out of the image.
ARG PIP_CONFIG_FILE

# Gigabytes that change with torch. What goes: triton, which needs a C compiler and serves torch.compile only (torch's CUDA builds
# for Windows have none); headers and protoc, for building extensions; the multi-GPU solver, linked by nothing; the profiler's counters.
COPY --from=pins /pins/torch.txt /tmp/
RUN python3 -m pip install --no-deps -r /tmp/torch.txt \
 && cd "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && rm -rf triton torch/include torch/share torch/bin/protoc* nvidia/cusolver/lib/libcusolverMg.so* \
    nvidia/cuda_cupti/lib/libnvperf_*.so nvidia/cuda_cupti/lib/libpcsamplingutil.so nvidia/cuda_cupti/lib/libcheckpoint.so

# Hundreds of megabytes that change with any other pin. What goes: the test suites of scipy, sympy and networkx, and the descriptions
# of every AWS service but the one that is used.
COPY requirements.txt requirements-nodeps.txt ./
RUN python3 -m pip install -r requirements.txt && python3 -m pip install --no-deps -r requirements-nodeps.txt \
 && cd "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && find scipy sympy networkx -type d -name tests -prune -exec rm -rf {} + \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 -exec rm -rf {} +

# BAKE_FLASH_ATTN=1 puts flash-attn into the image instead of fetching it at the first boot on a capable GPU. pip checks the pinned sha256.
ARG BAKE_FLASH_ATTN=0
COPY f5_worker/__init__.py f5_worker/wheel_choice.py ./f5_worker/
RUN if [ "$BAKE_FLASH_ATTN" = "1" ]; then \
      python3 -m pip install --no-deps "$(python3 -c 'from f5_worker import wheel_choice; print(wheel_choice.release_for_installed_torch())')" \
      && python3 -c 'import torch, flash_attn'; \
    fi

# Kilobytes that change with every commit.
COPY f5_worker ./f5_worker
COPY model_cache_init.py s3_utils.py handler.py test_input.json LICENSE ./
# Bytecode for a read-only root; a cache directory that any user may write (docs/decisions/0011-image-user.md).
RUN find . ! -perm -a+r -exec chmod a+rX {} + && python3 -m compileall -q . && mkdir -m 1777 models

ARG VERSION=unknown REVISION=unknown
LABEL org.opencontainers.image.title="F5-TTS worker for RunPod serverless" \
      org.opencontainers.image.description="Clones voices with F5-TTS; its weights come from your own S3-compatible bucket" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# RunPod does not look at it. The start period is RunPod's own limit for a boot.
HEALTHCHECK --interval=30s --timeout=10s --start-period=7m --retries=1 CMD ["python", "-m", "f5_worker.healthcheck"]

# Exec form: Python is PID 1 and SIGTERM reaches it; a shell would swallow the signal.
CMD ["python", "-u", "model_cache_init.py"]
