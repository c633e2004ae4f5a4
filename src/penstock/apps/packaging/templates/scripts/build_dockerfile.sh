#!/usr/bin/env bash
# Builds the images of {{ app.name }}. Registry, repository and version are those of version.json; state others before the command:
#   REGISTRY=… REPOSITORY=… VERSION=… scripts/build_dockerfile.sh
# PLATFORM is linux/amd64 unless stated.{% if images_built | length > 1 %} LOCK is another lock file for the packages of models, such as one without CUDA.{% endif %}

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stated() {
    sed -n 's/^ *"'"$1"'": *"\([^"]*\)".*$/\1/p' version.json
}

registry="${REGISTRY:-$(stated registry)}"
repository="${REPOSITORY:-$(stated repository)}"
version="${VERSION:-$(stated version)}"
platform="${PLATFORM:-linux/amd64}"
if [ -z "$registry" ] || [ -z "$repository" ] || [ -z "$version" ]; then
    echo "version.json must name a registry, a repository and a version" >&2
    exit 1
fi
if ! command -v docker >/dev/null; then
    echo "docker is not installed: https://docs.docker.com/engine/install/" >&2
    exit 1
fi

image="$registry/$repository:$version"
{% for one in images_built %}
docker build --platform "$platform" --file {{ one.dockerfile }} {% if one.services %}--build-arg IMAGE="$image" --build-arg LOCK="${LOCK:-}" {% endif %}--tag "$image{{ one.suffix }}" .
{% endfor %}
printf 'Built %s\n'{% for one in images_built %} "$image{{ one.suffix }}"{% endfor %}

