# DreamerV2 on an NVIDIA GPU; it also runs without one. The host needs NVIDIA's driver and the NVIDIA
# container toolkit. CUDA comes with the Python packages of the extra `gpu`, so the base is plain.
#
#   docker build -t dreamerv2 .
#   mkdir -p ~/logdir    # if docker creates it, it belongs to root
#   docker run -it --rm --gpus all -v ~/logdir:/logdir dreamerv2 \
#     --logdir /logdir/atari_pong/dreamerv2/1 --configs atari --task atari_pong
#
# The user in the image has the id 1000. If yours is different, add --user "$(id -u):$(id -g)".
# Without a GPU, add --build-arg EXTRAS=dmc,crafter,minigrid,video to the first command and leave out
# --gpus all: the image is 3 GB smaller.
FROM python:3.12-slim

# MuJoCo renders through EGL: with the GPU's driver, or in software (Mesa) without one. The JSON file
# tells EGL about the driver, which the container toolkit mounts.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri libgles2 \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /usr/share/glvnd/egl_vendor.d \
 && printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n' \
      > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
ENV MUJOCO_GL=egl \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics

# The dependencies come first, so that a change of the code does not install them again.
WORKDIR /app
COPY setup.py pyproject.toml LICENSE ./
COPY dreamerv2/__init__.py dreamerv2/
ARG EXTRAS=gpu,dmc,crafter,minigrid,video
RUN pip install --no-cache-dir ".[$EXTRAS]"

COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall -e . \
 && useradd --create-home --uid 1000 dreamer \
 && mkdir /logdir \
 && chown dreamer:dreamer /logdir

USER dreamer
# A user with another id has no home directory here, but libraries need one for their caches.
ENV HOME=/tmp
# The build fails here if a command does not start.
RUN dreamerv2 --help > /dev/null && dreamerv2-plot --help > /dev/null
VOLUME /logdir
ENTRYPOINT ["dreamerv2"]
CMD ["--help"]
