// Reads the bytes that keras_embcam/tab_format.py describes.

export const VERSION = 1;
export const EXAMPLES = "embcam/examples";
export const UPDATES = "embcam/updates";
const PRELUDE = 16;
const NONE = 65535;
const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array };

const CRC = Uint32Array.from({ length: 256 }, (_, number) => {
  for (let bit = 0; bit < 8; bit++) {
    number = number & 1 ? (number >>> 1) ^ 0xedb88320 : number >>> 1;
  }
  return number;
});

function checkSum(bytes) {
  let sum = -1;
  for (let i = 0; i < bytes.length; i++)
    sum = (sum >>> 8) ^ CRC[(sum ^ bytes[i]) & 255];
  return ~sum >>> 0;
}

// Takes a Uint8Array, returns {kind, meta, arrays}.
export function unpack(blob) {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  const magic = String.fromCharCode(...blob.subarray(0, 6));
  if (blob.length < PRELUDE || magic !== "embcam") {
    throw new Error("This is not data of the EmbeddingCAM tab.");
  }
  const version = view.getUint16(6, true);
  if (version > VERSION) {
    throw new Error(
      `Written in version ${version} of the format; this keras_embcam reads up to ` +
        `version ${VERSION}. Start TensorBoard with the newer keras_embcam.`,
    );
  }
  if (checkSum(blob.subarray(PRELUDE)) !== view.getUint32(12, true)) {
    throw new Error("Damaged: the check sum does not fit.");
  }
  let start = PRELUDE + view.getUint32(8, true);
  const { kind, meta, arrays } = JSON.parse(
    new TextDecoder().decode(blob.subarray(PRELUDE, start)),
  );
  const found = {};
  for (const [name, type, shape] of arrays) {
    const count = shape.reduce((product, side) => product * side, 1);
    const size = count * TYPES[type].BYTES_PER_ELEMENT;
    const data = new TYPES[type](blob.slice(start, start + size).buffer);
    if (data.length !== count) throw new Error("Damaged: it ends too early.");
    found[name] = { shape, data };
    start += Math.ceil(size / 8) * 8;
  }
  return { kind, meta, arrays: found };
}

// The other side of tab_format.join: [[step, blob], ..].
export function split(buffer) {
  const view = new DataView(buffer);
  const blobs = [];
  for (let start = 0; start < buffer.byteLength;) {
    const step = Number(view.getBigInt64(start, true));
    const length = Number(view.getBigUint64(start + 8, true));
    blobs.push([step, new Uint8Array(buffer, start + 16, length)]);
    start += 16 + Math.ceil(length / 8) * 8;
  }
  return blobs;
}

export function shares(array) {
  return Float64Array.from(array.data, (x) => (x === NONE ? NaN : x / (NONE - 1)));
}

export function readExamples(blob) {
  const { meta, arrays } = unpack(blob);
  const corners = shares(arrays.boxes);
  const points = shares(arrays.outline_points);
  let box = 0;
  let line = 0;
  let point = 0;
  const boxes = [];
  const outlines = [];
  for (let i = 0; i < meta.names.length; i++) {
    boxes.push([]);
    for (let n = arrays.box_counts.data[i]; n > 0; n--, box++) {
      boxes[i].push(corners.subarray(4 * box, 4 * box + 4));
    }
    outlines.push([]);
    for (let n = arrays.outline_counts.data[i]; n > 0; n--, line++) {
      const length = arrays.outline_lengths.data[line];
      outlines[i].push(points.subarray(2 * point, 2 * (point + length)));
      point += length;
    }
  }
  return { ...meta, boxes, outlines };
}

export function readFigures(blob) {
  const { meta, arrays } = unpack(blob);
  return {
    ...meta,
    ratios: shares(arrays.ratios),
    found: shares(arrays.found_boxes),
    empty: arrays.empty.data,
    numNeighbors: arrays.neighbors.shape[1],
    neighbors: Int32Array.from(arrays.neighbors.data, (x) => (x === NONE ? -1 : x)),
    similarities: Float32Array.from(arrays.similarities.data, (x) => x / 32767),
  };
}

export function readMaps(blob) {
  const { shape, data } = unpack(blob).arrays.maps;
  return { height: shape[1], width: shape[2], data };
}

// Maps of pairs by the example's number: [on the example, on its first match].
export function readPairs(blob) {
  const { arrays } = unpack(blob);
  const pairs = new Map();
  if (!arrays.maps) return pairs;
  const [, count, height, width] = arrays.maps.shape;
  const size = height * width;
  const get = (i) => arrays.maps.data.subarray(i * size, (i + 1) * size);
  arrays.examples.data.forEach((example, i) => {
    pairs.set(example, { height, width, maps: [get(i), get(count + i)] });
  });
  return pairs;
}
