/* Draws one image of a student, without PyTorch:  draw student.cagc 7 face.ppm
 * Build: cc draw.c $(pkg-config --cflags --libs cagc) -o draw */
#include <cagc/c_api.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what) {
  fprintf(stderr, "%s: %s\n", what, cagc_last_error());
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: draw STUDENT.cagc SEED OUT.ppm\n"), 2;
  cagc_generator *g = cagc_open(argv[1], 1);
  if (!g) return failed(argv[1]);
  const uint32_t seed = (uint32_t)strtoul(argv[2], NULL, 10);
  const size_t z_dim = cagc_z_dim(g), ws_floats = (size_t)cagc_num_ws(g) * cagc_w_dim(g);
  const size_t size = cagc_resolution(g), bytes = cagc_image_bytes(g, CAGC_RGBA8);
  float *z = malloc(z_dim * sizeof(float)), *ws = malloc(ws_floats * sizeof(float));
  unsigned char *image = malloc(bytes);
  if (!z || !ws || !image) return fprintf(stderr, "no memory\n"), 1;

  cagc_random(seed, z_dim, z);
  if (cagc_map(g, z, 1, 0.7f, -1, ws)) return failed("map");
  const cagc_noise noise = cagc_has_noise(g) ? CAGC_NOISE_CONST : CAGC_NOISE_NONE;
  if (cagc_synthesize(g, ws, 1, noise, 0, CAGC_RGBA8, image, NULL, 0)) return failed("synthesize");

  FILE *out = fopen(argv[3], "wb");
  if (!out) return perror(argv[3]), 1;
  fprintf(out, "P6 %zu %zu 255\n", size, size);
  for (size_t i = 0; i < size * size; i++) fwrite(image + 4 * i, 1, 3, out);
  if (fclose(out)) return perror(argv[3]), 1;
  free(image), free(ws), free(z), cagc_close(g);
  return 0;
}
