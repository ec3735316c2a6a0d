// Exposes structs of plain fields as Python classes. Fields are given and read by name; a field that is not given keeps
// its default. A pointer is given as a tensor, as None or as an integer (0: null), and read as an integer.
#pragma once
#include <pybind11/pybind11.h>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace cagc {

// Returns the address that an integer is, or that of a tensor's elements, by Tensor.data_ptr(); null for None.
inline void *address_of(PyObject *from) {
  if (PyLong_Check(from)) return reinterpret_cast<void *>(PyLong_AsSize_t(from));
  if (from == Py_None) return nullptr;
  static PyObject *const name = PyUnicode_InternFromString("data_ptr");
  const auto address = pybind11::reinterpret_steal<pybind11::object>(PyObject_CallMethodNoArgs(from, name));
  return address ? reinterpret_cast<void *>(PyLong_AsSize_t(address.ptr())) : nullptr;
}

template <class M> void assign(M &to, pybind11::handle from) {
  if constexpr (std::is_array_v<M>) {
    const auto values = pybind11::reinterpret_borrow<pybind11::sequence>(from);
    if (!PySequence_Check(from.ptr()) || values.size() != std::extent_v<M>)
      throw std::invalid_argument("expected a sequence of " + std::to_string(std::extent_v<M>));
    for (size_t i = 0; i < std::extent_v<M>; i++) assign(to[i], values[i]);
  } else if constexpr (std::is_same_v<M, PyObject *>) {
    to = from.ptr();  // borrowed
  } else if constexpr (std::is_pointer_v<M>) {
    to = static_cast<M>(address_of(from.ptr()));
  } else if constexpr (std::is_same_v<M, bool>) {
    to = PyObject_IsTrue(from.ptr()) == 1;
  } else if constexpr (std::is_floating_point_v<M>) {
    to = static_cast<M>(PyFloat_AsDouble(from.ptr()));
  } else {
    to = static_cast<M>(PyLong_AsLongLong(from.ptr()));
  }
  if (PyErr_Occurred()) throw pybind11::error_already_set();
}

template <class M> pybind11::object value_of(const M &from) {
  if constexpr (std::is_same_v<M, PyObject *>) {
    return pybind11::reinterpret_borrow<pybind11::object>(from);
  } else if constexpr (std::is_array_v<M>) {
    pybind11::tuple values(std::extent_v<M>);
    for (size_t i = 0; i < std::extent_v<M>; i++) values[i] = value_of(from[i]);
    return values;
  } else if constexpr (std::is_pointer_v<M>) {
    return pybind11::int_(reinterpret_cast<size_t>(from));
  } else if constexpr (std::is_enum_v<M>) {
    return pybind11::int_(static_cast<std::underlying_type_t<M>>(from));
  } else {
    return pybind11::cast(from);
  }
}

struct Field {
  PyObject *name;  // interned
  size_t offset;
  void (*set)(void *, pybind11::handle);
  pybind11::object (*get)(const void *);

  template <class M> static Field of(const char *name, size_t offset) {
    return {PyUnicode_InternFromString(name), offset,
            [](void *to, pybind11::handle from) { assign(*static_cast<M *>(to), from); },
            [](const void *from) { return value_of(*static_cast<const M *>(from)); }};
  }
};

// Returns the index of field `name`, or fields.size() if there is none. The search starts at `first`, because callers
// usually name the fields in order.
inline size_t find(const std::vector<Field> &fields, PyObject *name, size_t first) {
  const size_t count = fields.size();
  for (size_t i = 0; i < count; i++)
    if (fields[(first + i) % count].name == name) return (first + i) % count;
  for (size_t i = 0; i < count; i++)
    if (PyUnicode_Compare(fields[i].name, name) == 0) return i;
  return count;
}

// Binds a member under its own name, or under another one where that is a Python keyword.
#define CAGC_FIELD(STRUCT, MEMBER) ::cagc::Field::of<decltype(STRUCT::MEMBER)>(#MEMBER, offsetof(STRUCT, MEMBER))
#define CAGC_FIELD_AS(NAME, STRUCT, MEMBER) ::cagc::Field::of<decltype(STRUCT::MEMBER)>(NAME, offsetof(STRUCT, MEMBER))

// Returns f(), or null with the Python error of what it throws.
template <class F> PyObject *guarded(F &&f) noexcept {
  try {
    return f();
  } catch (pybind11::error_already_set &error) {
    error.restore();
  } catch (const pybind11::builtin_exception &error) {
    error.set_error();
  } catch (const std::exception &error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

template <class S> struct Fields {
  static inline std::vector<Field> all;
  static inline const char *type;

  static S named(PyObject *const *values, PyObject *names) {
    S s{};
    for (Py_ssize_t i = 0, at = -1, n = names ? PyTuple_GET_SIZE(names) : 0; i < n; i++) {
      PyObject *name = PyTuple_GET_ITEM(names, i);
      at = find(all, name, at + 1);
      if (at == static_cast<Py_ssize_t>(all.size()))
        throw pybind11::type_error(std::string(type) + " has no field " + PyUnicode_AsUTF8(name));
      all[at].set(reinterpret_cast<char *>(&s) + all[at].offset, values[i]);
    }
    return s;
  }

  // Construction with fields by name, through Python's vectorcall protocol: pybind11 would build a dictionary of them,
  // which takes as long as the rest of a call of a small op.
  static PyObject *construct(PyObject *, PyObject *const *values, size_t count, PyObject *names) noexcept {
    return guarded([&] {
      if (PyVectorcall_NARGS(count)) throw pybind11::type_error(std::string(type) + " takes fields by name alone");
      return pybind11::cast(named(values, names)).release().ptr();
    });
  }
};

template <class S> void bind_fields(pybind11::module_ &m, const char *name, std::vector<Field> fields) {
  // The metaclass of pybind11 does not support vectorcall.
  const auto type_itself = pybind11::metaclass(reinterpret_cast<PyObject *>(&PyType_Type));
  pybind11::class_<S> bound(m, name, type_itself);
  for (const Field &f : fields) {
    const pybind11::cpp_function get([f](const S &s) { return f.get(reinterpret_cast<const char *>(&s) + f.offset); });
    const pybind11::cpp_function set(
        [f](S &s, pybind11::handle value) { f.set(reinterpret_cast<char *>(&s) + f.offset, value); });
    bound.def_property(PyUnicode_AsUTF8(f.name), get, set);
  }
  bound.def_property_readonly("address", [](const S &s) { return reinterpret_cast<size_t>(&s); });
  bound.def_property_readonly("size", [](const S &) { return sizeof(S); });
  Fields<S>::all = std::move(fields), Fields<S>::type = name;
  reinterpret_cast<PyTypeObject *>(bound.ptr())->tp_vectorcall = Fields<S>::construct;
}

}  // namespace cagc
