// Run a compiled model with TVM's C++ runtime alone:
//
//     run_model MODEL.so INPUT.bin ... OUTPUT.bin
//
// MODEL.so comes from `tflite2q convert ... --lib MODEL.so --target ...`.  Each INPUT.bin holds the codes of one input,
// row by row, in the type that the library's manifest gives; the first output's codes are written to OUTPUT.bin.
//
// It is compiled against the headers of the Python package apache-tvm-ffi, and linked with libtvm_ffi from there and
// libtvm_runtime from apache-tvm (docs/deploy.md has the command).

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;
using ffi::Tensor;

constexpr int kPooledAllocator = 2;
constexpr size_t kAlignment = 64;  // bytes; the code assumes it of every tensor
const DLDevice kCpu{kDLCPU, 0};

// How tensors get their memory.
struct Allocator {
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// A function of a loaded library or virtual machine.
ffi::Function Get(const ffi::Module& module, const std::string& name) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name);
  if (!found.has_value()) throw std::runtime_error("the library has no function " + name);
  return found.value();
}

size_t Bytes(const Tensor& tensor) { return ffi::GetDataSize(*tensor.GetDLTensorPtr()); }

// What the library says about itself: JSON behind a mark and a length of eight digits.
ffi::json::Object Manifest(const ffi::Module& machine) {
  Tensor content = Get(machine, "manifest")().cast<Tensor>();
  std::string text(static_cast<const char*>(content.data_ptr()), Bytes(content));
  return ffi::json::Parse(text.substr(text.find('{'))).cast<ffi::json::Object>();
}

DLDataType TypeOf(const std::string& name) {
  if (name == "uint8") return {kDLUInt, 8, 1};
  if (name == "int8") return {kDLInt, 8, 1};
  if (name == "int16") return {kDLInt, 16, 1};
  if (name == "int32") return {kDLInt, 32, 1};
  if (name == "float32") return {kDLFloat, 32, 1};
  throw std::runtime_error("this example does not read inputs of type " + name);
}

Tensor Read(const std::string& path, const ffi::json::Object& description) {
  std::vector<int64_t> shape;
  for (ffi::json::Value extent : description["shape"].cast<ffi::json::Array>()) {
    shape.push_back(extent.cast<int64_t>());
  }
  DLDataType type = TypeOf(description["dtype"].cast<ffi::String>());
  Tensor tensor = Tensor::FromNDAlloc(Allocator(), ffi::Shape(shape), type, kCpu);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() != Bytes(tensor)) {
    throw std::runtime_error(path + ": has " + std::to_string(bytes.size()) + " bytes, the input takes " +
                             std::to_string(Bytes(tensor)));
  }
  std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

int Run(const std::vector<std::string>& arguments) {
  // The loader searches its own folders for a name without a slash, and not this one.
  ffi::Module library = ffi::Module::LoadFromFile(std::filesystem::absolute(arguments[0]).string());
  ffi::Module machine = Get(library, "vm_load_executable")().cast<ffi::Module>();
  Get(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);

  ffi::json::Object manifest = Manifest(machine);
  std::cout << manifest["model"].cast<ffi::String>() << " for " << manifest["target"].cast<ffi::String>() << "\n";

  if (manifest.count(ffi::String("states"))) {
    throw std::runtime_error("the model keeps state, which this example does not pass on; see run_model.py");
  }
  ffi::json::Array inputs = manifest["inputs"].cast<ffi::json::Array>();
  if (arguments.size() != inputs.size() + 2) throw std::runtime_error("give one file for each input, and one output");
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    tensors.push_back(Read(arguments[1 + i], inputs[i].cast<ffi::json::Object>()));
  }
  std::vector<ffi::AnyView> views(tensors.begin(), tensors.end());
  ffi::Any result;
  Get(machine, "main").CallPacked(ffi::PackedArgs(views.data(), views.size()), &result);

  Tensor first = result.cast<ffi::Array<Tensor>>()[0];
  std::ofstream file(arguments.back(), std::ios::binary);
  file.write(static_cast<const char*>(first.data_ptr()), static_cast<std::streamsize>(Bytes(first)));
  file.close();
  if (!file) throw std::runtime_error(arguments.back() + ": cannot be written");
  return 0;
}

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 3) {
    std::cerr << "usage: run_model MODEL.so INPUT.bin ... OUTPUT.bin\n";
    return 2;
  }
  try {
    return Run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "run_model: " << error.what() << "\n";
    return 3;
  }
}
