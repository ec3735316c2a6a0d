// From the arrays of a flat file to a packed student.
#include "flat_file.h"

namespace cagc {
namespace {

constexpr int32_t kMaxLayers = 64, kMaxWs = 256, kMaxDirections = 512;
constexpr uint32_t kMaxWidth = 8192;

using Shape = std::vector<uint32_t>;
using Values = std::vector<double>;

uint32_t u(int64_t n) { return static_cast<uint32_t>(n); }

std::vector<float> floats(const Values &values) { return std::vector<float>(values.begin(), values.end()); }

// Reads one student; each member function returns false after a failure.
class StudentReader {
 public:
  StudentReader(const FlatFile &file, Student &student, Failure &failure)
      : file_(file), student_(student), failure_(failure) {}

  bool read(const Kernels &kernels) {
    return sizes() && convs() && pack(kernels) && noise() && directions() && extras();
  }

 private:
  bool numbers(const std::string &name, Shape shape, Values &values, bool rows = false) {
    return file_.numbers(name, std::move(shape), rows, values, failure_);
  }

  bool sizes() {
    std::vector<int32_t> sizes;
    if (!file_.integers("sizes", {4}, sizes, failure_)) return false;
    student_.z_dim = sizes[0], student_.w_dim = sizes[1], student_.num_ws = sizes[2], mapping_layers_ = sizes[3];
    student_.mapping = mapping_layers_ >= 0;
    if (sizes[1] < 1 || u(sizes[1]) > kMaxWidth || sizes[0] != sizes[1])
      return failure_.set(CAGC_FILE, "sizes: got z_dim %d and w_dim %d, expected the same from 1 to %u", sizes[0],
                          sizes[1], kMaxWidth);
    if (sizes[2] < 1 || sizes[2] > kMaxWs || sizes[3] < -1 || sizes[3] > kMaxLayers)
      return failure_.set(CAGC_FILE, "sizes: got num_ws %d and %d mapping layers, expected up to %d and %d", sizes[2],
                          sizes[3], kMaxWs, kMaxLayers);
    return true;
  }

  // The sizes of the convolutions, from the table and the shapes of their weights.
  bool convs() {
    const FlatArray *table = file_.find("convs");
    const uint32_t count = table ? table->shape[0] : 0;
    std::vector<int32_t> rows;
    if (count > u(kMaxLayers)) return failure_.set(CAGC_FILE, "convs: got %u, expected at most %d", count, kMaxLayers);
    if (!file_.integers("convs", {count, 4}, rows, failure_)) return false;
    Values strengths;
    if (!numbers("strengths", {count}, strengths)) return false;
    for (uint32_t i = 0; i < count; i++) {
      const FlatArray *weight = file_.find(part(i, "weight"));
      if (!weight || weight->axes != 4)
        return failure_.set(CAGC_FILE, "%s: got none of four axes, expected one", part(i, "weight").c_str());
      ConvWeights c;
      c.resolution = rows[4 * i], c.up = rows[4 * i + 1], c.w = rows[4 * i + 2], c.rgb_w = rows[4 * i + 3];
      c.rgb = c.rgb_w >= 0, c.out = weight->shape[0], c.in = weight->shape[1], c.noise_strength = strengths[i];
      if (c.w < 0 || c.w >= student_.num_ws || c.rgb_w < -1 || c.rgb_w >= student_.num_ws)
        return failure_.set(CAGC_FILE, "convs: got an index of w outside 0 to %d", student_.num_ws - 1);
      if (c.out > kMaxWidth || c.in > kMaxWidth)
        return failure_.set(CAGC_FILE, "%s: got more than %u channels", part(i, "weight").c_str(), kMaxWidth);
      convs_.push_back(c);
    }
    if (const char *wrong = why_not_a_network(convs_, student_.w_dim))
      return failure_.set(CAGC_FILE, "convs: got another network, %s", wrong);
    return true;
  }

  static std::string part(uint32_t conv, const char *name) { return "convs." + std::to_string(conv) + "." + name; }

  // How arrays are kept in memory: as in the file, where they are all alike and fit with the activation's gain.
  Storage storage_of(const std::vector<std::string> &names) {
    const FlatArray *first = names.empty() ? nullptr : file_.find(names[0]);
    if (!first || (first->type != FlatType::int8_rows && first->type != FlatType::float16)) return Storage::float32;
    for (const std::string &name : names) {
      const FlatArray *a = file_.find(name);
      if (!a || a->type != first->type) return Storage::float32;
      for (uint64_t i = 1; a->type == FlatType::float16 && i < a->bytes; i += 2)
        if ((a->data[i] & 0x7f) >= 0x78) return Storage::float32;  // 32768 and above
    }
    return first->type == FlatType::float16 ? Storage::float16 : Storage::int8;
  }

  PackingOptions options() {
    std::vector<std::string> mapping, styles;
    for (int32_t i = 0; i < mapping_layers_; i++) mapping.push_back("mapping." + std::to_string(i) + ".weight");
    for (uint32_t i = 0; i < convs_.size(); i++) {
      styles.push_back(part(i, "affine"));
      if (convs_[i].rgb) styles.push_back(part(i, "rgb_affine"));
    }
    PackingOptions options;
    options.mapping = storage_of(mapping), options.styles = storage_of(styles);
    return options;
  }

  bool pack(const Kernels &kernels) {
    const uint32_t f = u(student_.w_dim);
    student_.network = std::make_unique<PackedNetwork>(kernels, convs_, f, options());
    Values constant, fir, clamp, w_avg;
    if (!numbers("constant", {u(convs_[0].in), 4, 4}, constant) || !numbers("fir", {4}, fir)) return false;
    if (!numbers("w_avg", {f}, w_avg)) return false;
    student_.network->set_constant(constant.data()), student_.network->set_filter(fir.data());
    student_.w_avg = floats(w_avg);
    if (file_.find("clamp")) {
      if (!numbers("clamp", {1}, clamp)) return false;
      if (!(clamp[0] > 0)) return failure_.set(CAGC_FILE, "clamp: got %g, expected a number above 0", clamp[0]);
      student_.network->set_clamp(static_cast<float>(clamp[0]));
    }
    for (int32_t i = 0; i < mapping_layers_; i++) {
      const std::string layer = "mapping." + std::to_string(i);
      Values weight, bias;
      if (!numbers(layer + ".weight", {f, f}, weight, true) || !numbers(layer + ".bias", {f}, bias)) return false;
      student_.network->add_mapping_layer(weight.data(), bias.data());
    }
    for (uint32_t i = 0; i < convs_.size(); i++)
      if (!conv(i)) return false;
    return true;
  }

  bool conv(uint32_t i) {
    ConvWeights c = convs_[i];
    const uint32_t in = u(c.in), out = u(c.out), f = u(student_.w_dim);
    Values weight, bias, affine, affine_bias, rgb_weight, rgb_bias, rgb_affine, rgb_affine_bias;
    if (!numbers(part(i, "weight"), {out, in, 3, 3}, weight) || !numbers(part(i, "bias"), {out}, bias) ||
        !numbers(part(i, "affine"), {in, f}, affine, true) || !numbers(part(i, "affine_bias"), {in}, affine_bias))
      return false;
    c.weight = weight.data(), c.bias = bias.data(), c.affine = affine.data(), c.affine_bias = affine_bias.data();
    if (c.rgb) {
      if (!numbers(part(i, "rgb_weight"), {3, out}, rgb_weight) || !numbers(part(i, "rgb_bias"), {3}, rgb_bias) ||
          !numbers(part(i, "rgb_affine"), {out, f}, rgb_affine, true) ||
          !numbers(part(i, "rgb_affine_bias"), {out}, rgb_affine_bias))
        return false;
      c.rgb_weight = rgb_weight.data(), c.rgb_bias = rgb_bias.data();
      c.rgb_affine = rgb_affine.data(), c.rgb_affine_bias = rgb_affine_bias.data();
    }
    student_.network->add_conv(c);
    return true;
  }

  bool noise() {
    if (!file_.find(part(0, "noise"))) return true;
    for (uint32_t i = 0; i < convs_.size(); i++) {
      Values map;
      if (!numbers(part(i, "noise"), {u(convs_[i].resolution), u(convs_[i].resolution)}, map)) return false;
      student_.noise.push_back(floats(map));
    }
    return true;
  }

  bool directions() {
    const FlatArray *table = file_.find("direction_scales");
    if (!table) return true;
    const uint32_t count = table->shape[0];
    if (count > u(kMaxDirections))
      return failure_.set(CAGC_FILE, "direction_scales: got %u, expected at most %d", count, kMaxDirections);
    Values scales;
    if (!numbers("direction_scales", {count}, scales)) return false;
    for (uint32_t i = 0; i < count; i++) {
      const std::string name = "directions." + std::to_string(i);
      Values vector;
      if (!numbers(name, {u(student_.w_dim)}, vector)) return false;
      student_.directions.push_back({file_.text(name + ".name"), static_cast<float>(scales[i]), floats(vector)});
    }
    return true;
  }

  bool extras() {
    student_.licence = file_.text("licence"), student_.thumbnails = file_.text("thumbnails");
    return true;
  }

  const FlatFile &file_;
  Student &student_;
  Failure &failure_;
  int32_t mapping_layers_ = -1;
  std::vector<ConvWeights> convs_;
};

}  // namespace

bool read_student(const uint8_t *data, uint64_t bytes, const Kernels &kernels, Student &student, Failure &failure) {
  FlatFile file;
  return file.open(data, bytes, failure) && StudentReader(file, student, failure).read(kernels);
}

}  // namespace cagc
