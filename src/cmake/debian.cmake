# Run by CPack twice: first, and when it has collected the files of its packages. Then it adds what
# Debian asks for beside them.
if(NOT CPACK_GENERATOR STREQUAL "DEB")
    return()
endif()
if(NOT CPACK_TEMPORARY_DIRECTORY)
    if(CPACK_BATCHNORM_REFUSES)
        message(FATAL_ERROR "${CPACK_BATCHNORM_REFUSES}")
    endif()
    find_program(BN_DPKG_SHLIBDEPS dpkg-shlibdeps)
    if(NOT BN_DPKG_SHLIBDEPS) # CPack would go on without dependencies
        message(FATAL_ERROR "Debian's packages need dpkg-shlibdeps: install dpkg-dev.")
    endif()
    return()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/release_date.cmake)

# A trigger in the place of scripts that CPack writes where nobody names files that it should take. It
# warns that these are missing, as they should be.
set(control ${CPACK_TOPLEVEL_DIRECTORY}/control)
file(WRITE ${control}/triggers "activate-noawait ldconfig\n")

string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${control}/changelog "batchnorm (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium

  * Version ${CPACK_PACKAGE_VERSION}.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")

foreach(component IN LISTS CPACK_COMPONENTS_ALL)
    string(TOUPPER ${component} key)
    set(share ${CPACK_TEMPORARY_DIRECTORY}/${component}/usr/share)
    set(package ${CPACK_DEBIAN_${key}_PACKAGE_NAME})
    set(doc ${share}/doc/${package})
    if(EXISTS ${share}/doc/batchnorm)
        file(RENAME ${share}/doc/batchnorm ${doc})
    endif()
    if(EXISTS ${doc}/LICENSE) # it is the copyright
        file(REMOVE ${doc}/LICENSE)
        file(READ ${doc}/README.md readme)
        string(REPLACE "[LICENSE](LICENSE)" "[copyright](copyright)" readme "${readme}")
        file(WRITE ${doc}/README.md "${readme}")
    endif()
    file(MAKE_DIRECTORY ${doc})
    file(COPY_FILE ${source}/LICENSE ${doc}/copyright)
    file(COPY_FILE ${control}/changelog ${doc}/changelog)
    if(component STREQUAL "batchnorm_mpi") # it calls MPI alone
        file(WRITE ${share}/lintian/overrides/${package}
            "${package}: library-not-linked-against-libc\n")
    endif()
    file(GLOB manual ${share}/man/man*/*)
    execute_process(COMMAND gzip -9n ${doc}/changelog ${manual} COMMAND_ERROR_IS_FATAL ANY)
    if(CPACK_DEBIAN_${key}_PACKAGE_SECTION STREQUAL "libs")
        set(CPACK_DEBIAN_${key}_PACKAGE_CONTROL_EXTRA
            ${control}/triggers ${control}/postinst ${control}/postrm)
    endif()
endforeach()

# Whatever the umask: there are no programs.
execute_process(COMMAND chmod -R u=rwX,go=rX ${CPACK_TEMPORARY_DIRECTORY} COMMAND_ERROR_IS_FATAL ANY)
