# The C library, static and shared. Its threads are std::thread's, whatever the Python module is built with.
file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/cagc_kernels/__init__.py version REGEX "^__version__")
string(REGEX REPLACE ".*\"(.*)\".*" "\\1" version "${version}")
cagc_kernels(cagc_c csrc/c_api.cpp csrc/flat_file.cpp csrc/flat_student.cpp ${synthesis})
target_compile_definitions(cagc_c PRIVATE CAGC_STD_THREADS CAGC_BUILDS_SHARED CAGC_VERSION="${version}")
set(objects "")
foreach(part IN LISTS runtime ITEMS cagc_c)
  list(APPEND objects $<TARGET_OBJECTS:${part}>)
endforeach()
foreach(kind STATIC SHARED)
  string(TOLOWER cagc_${kind} target)
  add_library(${target} ${kind} ${objects})
  target_link_libraries(${target} PUBLIC Threads::Threads)
  target_include_directories(${target} INTERFACE $<INSTALL_INTERFACE:include>
                                                 $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/csrc/include>)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME cagc LINKER_LANGUAGE CXX)
endforeach()
if(NOT APPLE AND NOT WIN32)
  # Templates of C++'s library are kept inside: neither those of another library in the process nor ours may take the
  # place of the other's.
  set(exported ${CMAKE_CURRENT_SOURCE_DIR}/csrc/c_api.exports)
  target_link_options(cagc_shared PRIVATE -Wl,--version-script=${exported})
  set_target_properties(cagc_shared PROPERTIES LINK_DEPENDS ${exported})
endif()

set_target_properties(cagc_shared PROPERTIES EXPORT_NAME shared VERSION ${version} SOVERSION 1) # CAGC_API_VERSION
set_target_properties(cagc_static PROPERTIES EXPORT_NAME static)

# `cmake --install` puts the library into the Python package, or where C programs look for it. With the Python module,
# the latter is `cmake --install --component c`.
set(for_c COMPONENT c)
if(CAGC_PYTHON)
  install(FILES $<TARGET_FILE:cagc_shared> DESTINATION cagc_edge
          RENAME ${CMAKE_SHARED_LIBRARY_PREFIX}cagc${CMAKE_SHARED_LIBRARY_SUFFIX})
  set(for_c COMPONENT c EXCLUDE_FROM_ALL)
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
install(TARGETS cagc_shared EXPORT cagc RUNTIME ${for_c} LIBRARY ${for_c} ARCHIVE ${for_c})
install(TARGETS cagc_static EXPORT cagc ARCHIVE ${for_c})
install(FILES csrc/include/cagc/c_api.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/cagc ${for_c})
set(config ${CMAKE_INSTALL_LIBDIR}/cmake/cagc)
install(EXPORT cagc NAMESPACE cagc:: FILE cagc-targets.cmake DESTINATION ${config} ${for_c})
configure_file(csrc/cagc.pc.in cagc.pc @ONLY)
configure_file(csrc/cagc-config.cmake.in cagc-config.cmake @ONLY)
write_basic_package_version_file(cagc-config-version.cmake VERSION ${version} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cagc.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig ${for_c})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cagc-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/cagc-config-version.cmake
        DESTINATION ${config} ${for_c})
