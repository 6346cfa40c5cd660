# syntax=docker/dockerfile:1
# A static binary on an empty image, run by a user who is not root.
#   docker build -t cairn .        (or: buildah build -t cairn .)
#   docker run -p 9876:9876 -p 10911:10911 -p 8081:8081 -p 9877:9877 -v cairn:/data cairn
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/cairn ./cmd/cairn && mkdir -p /out/data

FROM scratch
COPY --from=build /out/cairn /cairn
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
VOLUME /data
EXPOSE 9876 10909 10911 8081 9877
ENV CAIRN_DATA=/data CAIRN_LOG_FORMAT=json
ENTRYPOINT ["/cairn"]
CMD ["serve"]
