# What a release has attached. `cpack -G DEB`, in the build folder, writes packages for Debian; the
# target `dist` writes the source as a tarball; and `packages` collects both in the folder packages.

# ---- Debian's packages -----------------------------------------------------------------------------

set(CPACK_BATCHNORM_REFUSES "") # or why there can be none
if(NOT BN_INSTALL OR NOT both_libraries OR NOT CMAKE_INSTALL_PREFIX STREQUAL "/usr"
    OR NOT CMAKE_INSTALL_LIBDIR STREQUAL "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
    set(CPACK_BATCHNORM_REFUSES "Debian's packages are of both libraries, in Debian's folders: \
configure with -DCMAKE_INSTALL_PREFIX=/usr, and without BUILD_SHARED_LIBS, BN_INSTALL and \
CMAKE_INSTALL_LIBDIR.")
endif()

# What is run and what is built against, one package each: components of the installation.
set(CPACK_COMPONENTS_ALL "")
macro(bn_add_package component package section depends description)
    string(TOUPPER ${component} key)
    list(APPEND CPACK_COMPONENTS_ALL ${component})
    set(CPACK_DEBIAN_${key}_PACKAGE_NAME ${package})
    set(CPACK_DEBIAN_${key}_PACKAGE_SECTION ${section})
    set(CPACK_DEBIAN_${key}_PACKAGE_DEPENDS "${depends}")
    set(CPACK_DEBIAN_${key}_DESCRIPTION "${description}")
endmacro()

set(so_version ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(same "(= ${PROJECT_VERSION})")
set(has "This package has")
set(run_by "the shared library, which programs are run with.")
set(built_with "what programs are built with.")
set(is "${PROJECT_DESCRIPTION}")
bn_add_package(batchnorm libbatchnorm${so_version} libs "" "${is}\n${has} ${run_by}")
bn_add_package(batchnorm_dev libbatchnorm-dev libdevel "libbatchnorm${so_version} ${same}"
    "${is} (development)\n${has} ${built_with}")
set(mpi_needs ", libopenmpi-dev")
if(MPI_C_INCLUDE_DIRS MATCHES "mpich")
    set(mpi_needs ", libmpich-dev")
endif()
foreach(name IN LISTS components)
    set(package libbatchnorm-${name})
    set(is "Batch normalization: ${${name}_is}")
    bn_add_package(batchnorm_${name} ${package}${so_version} libs "libbatchnorm${so_version} ${same}"
        "${is}\n${has} ${run_by}")
    bn_add_package(batchnorm_${name}_dev ${package}-dev libdevel
        "${package}${so_version} ${same}, libbatchnorm-dev ${same}${${name}_needs}"
        "${is} (development)\n${has} ${built_with}")
endforeach()

get_cmake_property(installed COMPONENTS)
if("reference" IN_LIST installed)
    bn_add_package(reference libbatchnorm-doc doc "" "Batch normalization (documentation)\n\
${has} the reference, as HTML and as man pages.")
    set(CPACK_DEBIAN_REFERENCE_PACKAGE_ARCHITECTURE all)
endif()

# The version has no revision of Debian's, so that a package of Debian's own would be the newer one.
set(CPACK_PACKAGE_CONTACT "The batchnorm authors <batchnorm@batchnorm.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "") # each package has its own
set(CPACK_GENERATOR TGZ) # where no other is asked for
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SOURCE batchnorm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_LIST_DIR}/debian.cmake) # run first
set(CPACK_PRE_BUILD_SCRIPTS ${CPACK_PROJECT_CONFIG_FILE}) # and again with the files there
include(CPack)
# The source is packed by `dist`. Without this file there is no second target for that.
file(REMOVE ${CMAKE_BINARY_DIR}/CPackSourceConfig.cmake)

# ---- The source, and all together ------------------------------------------------------------------

set(tarball ${CMAKE_BINARY_DIR}/batchnorm-${PROJECT_VERSION}.tar.gz)
add_custom_target(dist
    COMMAND ${CMAKE_COMMAND} -DTARBALL=${tarball} -P ${CMAKE_CURRENT_LIST_DIR}/dist.cmake
    VERBATIM)

set(attached ${tarball})
set(packages ${CMAKE_BINARY_DIR}/packages)
set(write_debian "")
find_program(BN_DPKG_DEB dpkg-deb)
mark_as_advanced(BN_DPKG_DEB)
if(BN_DPKG_DEB)
    set(write_debian COMMAND ${CMAKE_CPACK_COMMAND} -G DEB -B ${packages}
        COMMAND ${CMAKE_COMMAND} -E rm -r ${packages}/_CPack_Packages)
endif()
if(TARGET one_file)
    list(APPEND attached ${CMAKE_BINARY_DIR}/one_file/batchnorm.c
        ${CMAKE_BINARY_DIR}/one_file/batchnorm.h)
endif()
add_custom_target(packages
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${packages}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${packages}
    COMMAND ${CMAKE_COMMAND} -E copy ${attached} ${packages}
    ${write_debian}
    VERBATIM)
add_dependencies(packages dist ${installed_targets})
foreach(name IN LISTS components)
    add_dependencies(packages batchnorm_${name})
endforeach()
if(TARGET one_file)
    add_dependencies(packages one_file)
endif()
