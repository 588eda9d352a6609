// Heat over a picture, as keras_embcam.drawing.overlay_heatmap lays it: resized
// bilinearly with pixel centres aligned, and mixed in with the heat as coverage.

// For each of `size` pixels: the two cells beside it, and the share of the second one.
function neighbors(size, cells) {
  const first = new Int32Array(size);
  const second = new Int32Array(size);
  const part = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const at = Math.min(Math.max(((i + 0.5) * cells) / size - 0.5, 0), cells - 1);
    first[i] = Math.floor(at);
    second[i] = Math.min(first[i] + 1, cells - 1);
    part[i] = at - first[i];
  }
  return { first, second, part };
}

// base, out: ImageData of one size; map: bytes (height x width); colors: 256 x RGB.
export function blend(base, out, map, height, width, strength, colors) {
  const columns = neighbors(base.width, width);
  const rows = neighbors(base.height, height);
  const from = base.data;
  const to = out.data;
  const line = new Float32Array(width);
  to.set(from); // most of a map is often without heat
  for (let y = 0, p = 0; y < base.height; y++) {
    const upper = rows.first[y] * width;
    const lower = rows.second[y] * width;
    for (let x = 0; x < width; x++) {
      const value = map[upper + x];
      line[x] = value + rows.part[y] * (map[lower + x] - value);
    }
    for (let x = 0; x < base.width; x++, p += 4) {
      const value = line[columns.first[x]];
      const heat = value + columns.part[x] * (line[columns.second[x]] - value);
      if (heat === 0) continue;
      const alpha = (strength * heat) / 255;
      const color = 3 * ((heat + 0.5) | 0);
      to[p] = from[p] + alpha * (colors[color] - from[p]);
      to[p + 1] = from[p + 1] + alpha * (colors[color + 1] - from[p + 1]);
      to[p + 2] = from[p + 2] + alpha * (colors[color + 2] - from[p + 2]);
    }
  }
}
